"""A lexical encoder as a sentence-transformers module: hashed character n-grams, TF-IDF, sparse random projection.

It sees spelling where neural members see meaning; nothing is learned but the inverse document frequencies.
"""

from pathlib import Path

import numpy as np
import scipy.sparse as sparse
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers.base.modules.input_module import InputModule
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.random_projection import SparseRandomProjection


class LexicalEncoder(InputModule):
    """Text -> hashed character n-grams -> TF-IDF -> random projection -> ``(n, dims) float32``, L2-normalised.

    The same bytes for the same texts on every machine: logarithms and lengths are taken in float64, whose last bits, in
    which processors differ, do not survive the rounding. Settings are those of ``LexicalSpec``; scikit-learn's own density
    would map a fifth of 2**16 buckets to nothing. ``fit`` computes ``idf``, ``(features,)``, and the sparse ``projection``.
    """

    config_keys = ["ngrams", "features", "dims", "nonzeros"]

    def __init__(self, ngrams=(3, 5), features=2**16, dims=384, nonzeros=8, idf=None, projection=None):
        super().__init__()
        self.ngrams, self.features, self.dims, self.nonzeros = tuple(ngrams), features, dims, nonzeros
        self.vectorizer = HashingVectorizer(
            analyzer="char_wb", ngram_range=self.ngrams, n_features=features, norm=None, alternate_sign=False
        )
        self.idf = None if idf is None else _fixed(idf)
        self.projection = projection

    def fit(self, texts: list[str], seed: int) -> "LexicalEncoder":
        """Learn the inverse document frequencies of ``texts`` and draw the projection; returns itself."""
        counts = self.vectorizer.transform(texts)
        self.idf = _fixed(TfidfTransformer(sublinear_tf=True).fit(counts).idf_)
        draw = SparseRandomProjection(self.dims, density=min(1.0, self.nonzeros / self.dims), random_state=seed)
        components = draw.fit(sparse.csr_matrix((1, self.features))).components_
        self.projection = sparse.csr_matrix(components.T, dtype=np.float32)
        return self

    def preprocess(self, inputs, prompt=None, **kwargs):
        """Texts to their projected vectors; the sparse part of the work happens here, on the CPU."""
        counts = self.vectorizer.transform([(prompt or "") + text for text in inputs])
        weights = (1 + np.log(counts.data)).astype(np.float32)
        counts.data = weights * self.idf.detach().cpu().numpy()[counts.indices]
        return {"lexical": torch.from_numpy((counts @ self.projection).toarray())}

    def forward(self, features, **kwargs):
        """Normalise; a text without any n-gram stays the zero vector."""
        vectors = features.pop("lexical")
        features["sentence_embedding"] = torch.nn.functional.normalize(vectors.double(), dim=-1).float()
        return features

    def get_embedding_dimension(self):
        """Dimensions of the output."""
        return self.dims

    def save(self, output_path, *args, **kwargs):
        """Config as JSON, frequencies and projection as safetensors."""
        held = {"idf": self.idf.detach().cpu().numpy(), "data": self.projection.data}
        held |= {name: getattr(self.projection, name).astype(np.int32) for name in ("indices", "indptr")}
        save_file(held, Path(output_path) / "lexical.safetensors")
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path, subfolder="", **kwargs):
        """Load what ``save`` wrote."""
        known = ("token", "cache_folder", "revision", "local_files_only")
        hub = {name: kwargs[name] for name in known if name in kwargs}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        held = load_file(cls.load_file_path(model_name_or_path, "lexical.safetensors", subfolder=subfolder, **hub))
        shape = (config["features"], config["dims"])
        projection = sparse.csr_matrix((held["data"], held["indices"], held["indptr"]), shape=shape)
        return cls(**config, idf=held["idf"], projection=projection)


def _fixed(idf):
    return torch.nn.Parameter(torch.as_tensor(idf, dtype=torch.float32), requires_grad=False)
