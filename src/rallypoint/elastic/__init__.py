"""torch's elastic Python API, torch-free: the modules of ``torch.distributed.elastic``, below ``rallypoint.elastic``.

Thin translations: the rooms of the house do the work. What differs from torch stands in docs/torch-differences.md.
"""
