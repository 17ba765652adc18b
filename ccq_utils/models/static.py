"""Training of static members: sentence-transformers' StaticEmbedding with MultipleNegativesRankingLoss."""

from pathlib import Path


def new_static(tokenizer_file: Path, dims: int, seed: int):
    """A SentenceTransformer of random token vectors over a tokenizer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    torch.manual_seed(seed)
    tokens = StaticEmbedding(Tokenizer.from_file(str(tokenizer_file)), embedding_dim=dims)
    return SentenceTransformer(modules=[tokens], device="cpu")


def train_static(
    model, pairs: list[tuple[str, str]], epochs: int, batch_size: int, learning_rate: float, seed: int, folder: Path
) -> None:
    """Train token vectors so that a short text finds its long one among the batch, and save the model to ``folder``.

    In-batch negatives, cosine similarity scaled by 20 (the loss's default); deterministic for a seed and a thread count.

    Parameters
    ----------
    model : a SentenceTransformer of one StaticEmbedding, changed in place
    """
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers
    from transformers import PrinterCallback

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "unused"),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=0.1,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = Dataset.from_list([{"anchor": short, "positive": long} for short, long in pairs])
    model.model_card_data.generate_widget_examples = False  # it would read the data again, with a bar of its own
    loss = MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary of timings
    trainer.train()
    model.save(str(folder), create_model_card=False)
