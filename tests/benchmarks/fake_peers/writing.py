"""A tracker that has written each value when its call returns."""

import os


def start(folder):
    file = os.open(f"{folder}/values", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda step: os.write(file, b"%d\n" % step), lambda: os.close(file)


def found(folder):
    with open(f"{folder}/values") as file:
        return [int(line) for line in file]
