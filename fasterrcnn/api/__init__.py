"""The Python interface: what `import fasterrcnn` offers.

    from fasterrcnn import load

    detector = load("output/RUN")
    for found in detector(["a.jpg", "b.jpg"], score_threshold=0.5):
        print(found.boxes, found.scores, found.names)

The user's mistakes are ValueErrors of one line; what else can go wrong is in `fasterrcnn.errors`.
"""

from fasterrcnn.api.detections import Detections
from fasterrcnn.api.predictor import Predictor, load
from fasterrcnn.api.training import train

__all__ = ["Detections", "Predictor", "load", "train"]
