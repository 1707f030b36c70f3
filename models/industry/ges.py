"""GES: graph embedding with side information.

Cite: Wang, Huang, Zhao, Zhang, Zhao, Lee: Billion-scale Commodity Embedding for E-commerce
Recommendation in Alibaba, KDD 2018.

    H_v = 1 / (n + 1) sum over s = 0 .. n of W_v^s
          W_v^0: of the item;  W_v^s: of its value of feature s

Deviations: those of `models.industry.graph_embedding`, where the rest of the paper is.
"""

import tensorflow as tf

from models.industry.graph_embedding import GraphHyperParameters, SideInformation
from models.names.sizes import Parameters, Sizes


class HyperParameters(GraphHyperParameters):
    """GES's own: none."""

    def parameters(self, sizes: Sizes) -> Parameters:
        return self.with_side_information(sizes)


class GES(SideInformation[HyperParameters]):
    """The item and its features count alike."""

    def preferences(self, index: tf.Tensor) -> tf.Tensor:
        return tf.zeros([tf.size(index), len(self.side) + 1])


Model = GES
