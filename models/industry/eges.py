"""EGES: graph embedding with side information that is weighted item by item.

Cite: Wang, Huang, Zhao, Zhang, Zhao, Lee: Billion-scale Commodity Embedding for E-commerce
Recommendation in Alibaba, KDD 2018.

    H_v = sum over s = 0 .. n of e^(a_v^s) W_v^s / sum over s of e^(a_v^s)
          W_v^0: of the item;  W_v^s: of its value of feature s;  a_v: [n + 1], of the item

a starts at 0, where it is GES; it stays there for an item that no walk has, and of a new item all
that is known counts alike, as in the paper.

Deviations: those of `models.industry.graph_embedding`, where the rest of the paper is.
"""

import tensorflow as tf

from models.industry.graph_embedding import GraphHyperParameters, SideInformation
from models.inputs.data import TrainingData
from models.inputs.token_layers import id_embedding
from models.names.sizes import Parameters, Sizes


class HyperParameters(GraphHyperParameters):
    """EGES's own: none."""

    def parameters(self, sizes: Sizes) -> Parameters:
        return self.with_side_information(sizes, 1 + len(sizes.of("item")))


class EGES(SideInformation[HyperParameters]):
    """What of an item counts how much is learnt for every item."""

    def __init__(self, hyper_parameters: HyperParameters, data: TrainingData):
        super().__init__(hyper_parameters, data)
        # Items x (n + 1).
        self.preference = id_embedding(data.items, len(self.side) + 1, "zeros", name="preference")
        self.preference.build(None)

    def preferences(self, index: tf.Tensor) -> tf.Tensor:
        return self.preference(index)


Model = EGES
