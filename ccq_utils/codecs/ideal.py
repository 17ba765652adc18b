"""What byte blocks are held against: float vectors with equalised dims, other codecs on such dims."""

import numpy as np

from ccq_utils.codecs.byte_blocks import POWER, equalised_pca
from ccq_utils.codecs.codec import Codec


class Equalised:
    """No codec: float vectors with equalised dims (see ``byte_blocks``), of which the first ``dims`` are kept."""

    def __init__(self, power: float = POWER, dims: int | None = None):
        self.power, self.dims = power, dims

    @property
    def bytes_per_vector(self) -> int:
        """Four bytes per dim."""
        return 4 * self.basis_.shape[1]

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "Equalised":
        """Fit PCA and the scale of its dims."""
        held_out = vectors if calibration is None else calibration
        self.mean_, basis, self.variances_ = equalised_pca(vectors, held_out, self.dims, self.power)
        self.basis_ = basis.astype(np.float32)
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, d)``, turned and scaled."""
        return vectors @ self.basis_

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Not packed: the values themselves."""
        return (vectors - self.mean_) @ self.basis_

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """What ``encode`` gave."""
        return codes


class OnEqualised:
    """Another codec, fitted on equalised dims in the place of the concat; that is shared by all vectors and costs nothing."""

    def __init__(self, codec: Codec):
        self.codec, self.equalised = codec, Equalised()
        if hasattr(codec, "score"):  # only then: ``scores`` asks for it
            self.score = lambda queries, codes: codec.score(self.equalised.project(queries), codes)

    @property
    def bytes_per_vector(self) -> int:
        """Those of the codec."""
        return self.codec.bytes_per_vector

    def fit(self, vectors: np.ndarray, calibration: np.ndarray | None = None) -> "OnEqualised":
        """Fit both."""
        self.equalised.fit(vectors, calibration)
        self.codec.fit(*(None if part is None else self.equalised.encode(part) for part in (vectors, calibration)))
        return self

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, d)``, as the codec projects equalised queries."""
        return self.codec.project(self.equalised.project(vectors))

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """``(n, D) -> (n, bytes_per_vector) uint8``."""
        return self.codec.encode(self.equalised.encode(vectors))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """As the codec decodes."""
        return self.codec.decode(codes)
