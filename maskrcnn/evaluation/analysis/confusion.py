"""Which class is taken for which: a confusion matrix for every score threshold at once."""

from __future__ import annotations

import numpy as np

from maskrcnn.evaluation.analysis.matches import Matches
from maskrcnn.evaluation.analysis.thresholds import NUM_BINS, score_bins


def confusion(matches: Matches) -> list[list]:
    """Counts of detections by the class of the object they meet, their own class, and their `score_bins`.

    Detections and objects are matched whatever their classes (`met`), in the order of the scores, so that the matrix at
    a threshold is the sum over the bins from it on. Detections in crowd regions are left out.

    Returns:
        `[object class, detected class, [bin, count, bin, count, ...]]` of each pair that occurs, in ascending order,
        bins too. The object class K stands for no object.
    """
    use = ~matches.ignored
    met = matches.objects_of(matches.met)[use]
    of_object = np.append(matches.object_labels, matches.num_classes)[met].astype(np.int64)  # -1: the last one
    pairs = of_object * matches.num_classes + matches.labels[use]
    cells, counts = np.unique(pairs * NUM_BINS + score_bins(matches.scores[use]), return_counts=True)
    pairs, bins = np.divmod(cells, NUM_BINS)
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    columns = np.split(np.stack([bins, counts], axis=1), starts[1:])
    return [
        [*divmod(pair, matches.num_classes), rows.ravel().tolist()]
        for pair, rows in zip(pairs[starts].tolist(), columns, strict=False)  # without pairs split gives one empty part
    ]
