from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from maskrcnn.engine.profile_tables import profile_tables

MODULES = ["Model", "body", "body.conv", "never"]


class Timeline:
    """Events by hand, in microseconds."""

    def __init__(self):
        self.events = []

    def add(self, name, start, end, parent=None, *, label=False, kernels=(), thread=0, device=DeviceType.CPU):
        event = FunctionEvent(
            id=len(self.events),
            name=name,
            thread=thread,
            start_us=start,
            end_us=end,
            device_type=device,
            use_device="cuda",
            is_user_annotation=label,
        )
        for duration in kernels:
            event.append_kernel("kernel", 0, duration)
        if parent is not None:
            event.set_cpu_parent(parent)
            parent.append_cpu_child(event)
        self.events.append(event)
        return event


def two_iterations():
    time = Timeline()
    for start in (0, 10_000):
        time.add("data", start, start + 1000, label=True)
        forward = time.add("forward", start + 1000, start + 4000, label=True)
        model = time.add("Model", start + 1100, start + 3900, forward, label=True)
        body = time.add("body", start + 1200, start + 3200, model, label=True)
        for i in range(2):  # the layer runs twice, under a range that is no module's
            middle = time.add("middle", start + 1300 + i * 500, start + 1700 + i * 500, body, label=True)
            conv = time.add("body.conv", middle.time_range.start, middle.time_range.end, middle, label=True)
            begin = conv.time_range.start
            outer = time.add("aten::conv2d", begin + 10, begin + 390, conv)
            time.add("aten::inner", begin + 20, begin + 320, outer, kernels=(600,))
        time.add("aten::relu", start + 3000, start + 3100, body, kernels=(50, 30))
        time.add("backward", start + 4000, start + 8000, label=True)
        time.add("aten::inner", start + 4500, start + 5500, thread=1, kernels=(2000,))  # autograd's thread
        time.add("body.conv", start, start + 9999, label=True, device=DeviceType.CUDA)  # a range as the GPU saw it
    return time.events


def cells(text):
    tables = [[line.split("  ") for line in block.splitlines()] for block in text.split("\n\n")]
    return [[[cell.strip() for cell in row if cell.strip()] for row in rows] for rows in tables]


def test_on_a_gpu():
    parts, modules, operators = cells(profile_tables(two_iterations(), MODULES, iterations=2, seconds=0.02, gpu=True))
    assert parts == [
        ["part of an iteration", "CPU ms", "GPU ms"],
        ["data", "1.000", "0.000"],
        ["forward", "3.000", "1.280"],
        ["backward", "4.000", "2.000"],  # though another thread launched it
        ["all", "10.000", "3.280"],
    ]
    assert modules == [
        ["module, forward", "calls", "CPU total ms", "CPU self ms", "GPU total ms", "GPU self ms"],
        ["Model", "1", "2.800", "0.800", "1.280", "0.000"],
        ["body", "1", "2.000", "1.200", "1.280", "0.080"],
        ["body.conv", "2", "0.800", "0.800", "1.200", "1.200"],
    ]
    assert operators == [
        ["operator", "calls", "CPU self ms", "GPU self ms"],
        ["aten::inner", "3", "1.600", "3.200"],
        ["aten::relu", "1", "0.100", "0.080"],
        ["aten::conv2d", "2", "0.160", "0.000"],
    ]


def test_on_a_cpu_and_without_labels():
    events = [event for event in two_iterations() if event.name not in ("data", "forward", "backward")]
    parts, modules, operators = cells(profile_tables(events, MODULES, iterations=2, seconds=0.02, gpu=False))
    assert parts == [["part of an iteration", "CPU ms"], ["all", "10.000"]]
    assert modules[1:] == [
        ["Model", "1", "2.800", "0.800"],
        ["body", "1", "2.000", "1.200"],
        ["body.conv", "2", "0.800", "0.800"],
    ]
    assert [row[0] for row in operators[1:]] == ["aten::inner", "aten::conv2d", "aten::relu"]  # by the CPU's time
