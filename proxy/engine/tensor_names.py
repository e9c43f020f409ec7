"""How llama.cpp calls the tensors that can move. Pure.

Written in what C++ and Python both read as a regular expression: llama.cpp takes them in
`--override-tensor`.
"""

import re
from typing import Final

EXPERT_TENSORS: Final = r"ffn_(up|down|gate|gate_up)_(ch|)exps"
# What moves in their place where a model has none.
FEED_FORWARD_TENSORS: Final = r"ffn_(up|down|gate)\."

# With the layer's number in the first group. Any ending counts: a bias or a scale left behind would
# pull its operation back over the bus.
EXPERTS: Final = re.compile(rf"blk\.(\d+)\.{EXPERT_TENSORS}\.")
FEED_FORWARD: Final = re.compile(rf"blk\.(\d+)\.{FEED_FORWARD_TENSORS}")
