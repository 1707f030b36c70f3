"""BGE: base graph embedding, the walks alone.

Cite: Wang, Huang, Zhao, Zhang, Zhao, Lee: Billion-scale Commodity Embedding for E-commerce
Recommendation in Alibaba, KDD 2018.

    H_v = W_v^0, a row an item

Deviations: those of `models.industry.graph_embedding`, where the rest of the paper is.
"""

import tensorflow as tf

from models.industry.graph_embedding import GraphEmbedding, GraphHyperParameters
from models.names.hyper_parameters import Xla


class HyperParameters(GraphHyperParameters, Xla):
    """BGE's own: none."""


class BGE(GraphEmbedding[HyperParameters]):
    """DeepWalk with negative sampling over the directed weighted graph."""

    def item_vectors(self, index: tf.Tensor) -> tf.Tensor:
        return self.items(index)


Model = BGE
