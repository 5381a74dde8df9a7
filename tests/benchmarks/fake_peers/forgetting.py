"""A tracker whose store can't be read back by its adapter."""


def start(folder):
    return lambda step: step, lambda: None


def found(folder):
    return []
