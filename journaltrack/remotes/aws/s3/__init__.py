"""Artifacts in S3: whole objects, uploads in parts, and how buckets keep them."""
