"""The paper's loss over all stops with its gradient written down, instead of left to autograd.

For a stop with Gram matrix ``G`` of the prefix, ``r = diag(G) ** -0.5``, cosines ``C = r G r`` and teacher ``T``, the loss is
the mean of ``W (C - T)**2``. With ``A = W (C - T)``, and as ``A`` is symmetric, its slope in ``G`` is ``r A r`` less ``r**2``
times the row sums of ``A C`` on the diagonal, times ``2 / B**2``; the slope in the outputs is twice that times the outputs. A
block of dims between stops takes the sum of the slopes of all stops that hold it, so both directions cost ``B * B * d``
multiplications, whatever the number of stops.

What autograd spends is not multiplications but the many temporary ``B * B`` matrices of each stop; here they are few.
"""

import torch


class PrefixSimilarity(torch.autograd.Function):
    """``(outputs (B, d), teacher (B, B), weights (B, B) or None, ascending stops) -> loss``, averaged over pairs and stops.

    Teacher and weights are symmetric and get no gradient; nor does a prefix shorter than 1e-6 through its own length.
    """

    @staticmethod
    def forward(ctx, outputs, teacher, weights, stops):
        """The loss; the gradient is made along the way, while the matrices are at hand."""
        gram, loss, slopes = torch.zeros_like(teacher), outputs.new_zeros(()), []
        blocks = [outputs[:, start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
        for block in blocks:
            gram.addmm_(block, block.T)
            scale = gram.diagonal().clamp_min(1e-12).rsqrt()
            cosines = (gram * scale[:, None]).mul_(scale)
            error = cosines - teacher
            slope = error.clone() if weights is None else error * weights
            loss += torch.dot(slope.view(-1), error.view(-1))
            if ctx.needs_input_grad[0]:
                turned = scale.square() * cosines.mul_(slope).sum(dim=1)
                slope.mul_(scale[:, None]).mul_(scale).diagonal().sub_(turned)
                slopes.append(slope)
        pairs = len(stops) * teacher.numel()
        if slopes:
            gradient, held = torch.zeros_like(outputs), torch.zeros_like(teacher)
            for block, slope, stop in zip(blocks[::-1], slopes[::-1], stops[::-1], strict=True):
                torch.mm(held.add_(slope), block, out=gradient[:, stop - block.shape[1] : stop])
            ctx.save_for_backward(gradient.mul_(4 / pairs))
        return loss / pairs

    @staticmethod
    def backward(ctx, slope):
        """``slope`` of the loss times the gradient."""
        (gradient,) = ctx.saved_tensors
        return slope * gradient, None, None, None
