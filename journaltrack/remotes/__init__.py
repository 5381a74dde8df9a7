"""Remotes that the reconciler delivers to.

``aws`` is SageMaker and S3, ``memory`` a fake. ``retry`` and ``allow`` wrap either.
"""
