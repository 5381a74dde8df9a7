"""Deliver to an MLflow tracking server by its REST API. MLflow itself is not needed."""
