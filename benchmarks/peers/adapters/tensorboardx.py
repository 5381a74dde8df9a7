"""tensorboardX: event files; the writer's queue and flush interval are its defaults."""

import glob
import struct

from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event


def start(folder):
    writer = SummaryWriter(folder)
    return lambda step: writer.add_scalar("loss", 1.0 / (step + 1), step), writer.close


def found(folder):
    steps = []
    for path in glob.glob(f"{folder}/events.out.tfevents.*"):
        with open(path, "rb") as file:
            data = file.read()
        place = 0
        while place + 12 <= len(data):  # a record: length, its CRC, the data, their CRC
            (length,) = struct.unpack_from("<Q", data, place)
            if place + 16 + length > len(data):
                break  # the last one was cut
            event = Event.FromString(data[place + 12 : place + 12 + length])
            steps += [event.step for value in event.summary.value if value.tag == "loss"]
            place += 16 + length
    return steps
