"""Run code of SageMaker's own libraries offline: change the import, nothing else."""
