"""The words of the page in English."""

from __future__ import annotations

ENGLISH: dict[str, str] = {
    "language": "en",
    "title": "Decomposition report",
    "contents": "Contents",
    "footer": (
        "Written by amct_pytorch {version}. The data of this page are in it as JSON, to six digits, in script "
        "elements of the type application/json; weights and single times are in the files it was made from."
    ),
    # cards
    "summary": "Summary",
    "score": "Score",
    "latency": "Latency of a forward pass",
    "macs": "MACs",
    "parameters": "Parameters",
    "agreement": "Top-1 agreement with the original",
    "output_error": "Relative output error",
    "on_samples": "on {count} samples",
    "before_tuning": "{score} before fine-tuning",
    "of_search": "by which the search has chosen",
    "of_validation": "on the inputs of the validation",
    "of_layers": "of the layers below, on the example inputs",
    "of_plan": "of the original's time, measured for the budget on {device}",
    "of_model": "of the whole model",
    "little_cpu": "the process got {share} of the CPU time that it could use",
    "comma": ", ",
    "colon": ": ",
    "points": "percentage points",
    "withheld": "Verdict withheld: {why}",
    # search
    "search": "Accuracy and cost",
    "tried": "tried",
    "chosen": "chosen",
    "original": "original",
    "decomposed": "decomposed",
    "least_allowed": "least allowed",
    "cost_macs": "MACs",
    "cost_parameters": "parameters",
    "cost_latency": "latency",
    "left_macs": "MACs left",
    "left_parameters": "Parameters left",
    "left_latency": "Latency left",
    "chosen_summary": (
        "Chosen: {cost} of the original's {what}, with score {score}. That is {change}; a drop of {drop} is allowed."
    ),
    "nothing_cheaper": "Nothing cheaper has a score within {drop} of the original's: every layer is kept.",
    "evaluations": "Everything tried, in order",
    "budget": "Budget",
    "score_change": "Change",
    "verdict": "Verdict",
    "seconds": "Seconds",
    "accepted": "accepted",
    "rejected": "rejected",
    "stopped": "Stopped early: {why}.",
    "standard_error": "Standard error of the difference of two scores: {error} at most.",
    "chance": "The drop allowed is below it: which plan is chosen is partly chance.",
    # layers
    "layers": "Layers",
    "layers_table": "Layers before and after",
    "layers_summary": "{count} of {all} layers are decomposed.",
    "no_layers": "The plan has no layers.",
    "layer": "Layer",
    "the_model": "(the model)",
    "geometry": "Geometry",
    "kept_layer": "kept",
    "method": "Method",
    "rank": "Rank",
    "macs_change": "Change",
    "weight_error": "Weight error",
    "response_error": "Response error",
    "plain_error": "Unfitted error",
    "bars": (
        "Bars: the one behind is the layer as it was, the one in front as it is planned, both relative to the "
        "largest layer; errors are relative, and a full bar is 1."
    ),
    "kept": "Kept layers, by reason",
    # spectra
    "spectra": "Spectra",
    "spectra_text": (
        "Singular values of each weight as its method unfolds it, relative to the largest, from the first on "
        "the left to the last on the right. The dashed line is the rank chosen: what lies to its right is "
        "left out. These are spectra of the weights alone; ranks chosen on calibration data weigh them by "
        "the layers' inputs."
    ),
    "spectra_shown": "Shown are the {shown} of {all} layers that leave out the most.",
    "spectrum_caption": "{method}: {ranks}",
    "semicolon": "; ",
    "spectrum_rank": "rank {rank} of {full}, {left_out} of the energy left out",
    # benchmark
    "speed": "Speed on {device}",
    "whole_model": "whole model",
    "batch": "batch {size}",
    "compiled": "compiled",
    "eager": "eager",
    "time_before": "Original / ms",
    "time_after": "Decomposed / ms",
    "host_bound": "host-bound",
    "chain": "Chain",
    "speed_up": "Speed-up",
    "cpu_share": "CPU share",
    "times_note": (
        "Times are medians of a forward pass. The speed-up is the median of paired ratios with its 99 % "
        "interval. The CPU share is how much of the CPU time that the process could use it got meanwhile; "
        "below 80 % the verdict is withheld."
    ),
    "peak_memory": "Peak memory: {before} → {after}.",
    "fallbacks": "Run on the CPU, as the device lacks them: {operators}.",
    "faster": "faster",
    "slower": "slower",
    "no difference seen": "no difference seen",
    "unknown": "withheld",
    "did not run": "did not run",
    # validation
    "validation": "Correctness on {device}",
    "all_right": ("Every decomposed layer that ran computes what it should; differences are those of rounding."),
    "some_wrong": "Some layers differ by more than rounding: see the verdicts.",
    "outputs": "Outputs compared with the original's",
    "outputs_note": (
        "The relative error is what the decomposition changes of the outputs; the tolerance is what the "
        "device may differ by from float64 in each layer."
    ),
    "dtype": "Type",
    "tolerance": "Tolerance",
    "device_error": "Device error",
    "worst": "At one place",
    "right": "right",
    "wrong": "wrong",
    # deployment
    "onnx": "ONNX file",
    "ascend": "Files for Ascend",
    "file": "File",
    "folder": "Folder",
    "opset": "Opset",
    "size": "Size",
    "exporter": "Exporter",
    "precision": "Precision mode of ATC",
    "inputs": "Inputs",
    "max_difference": "Largest difference",
    "mean_difference": "Mean difference",
    "relative_difference": "Relative",
    "onnxruntime": "Outputs of onnxruntime",
    "atc_rules": "{file} keeps the rules of ATC's parser. Rewritten for it: {rewritten}.",
    "nothing": "nothing",
    "no_atc": "Neither atc nor ais_bench was run on this machine.",
    # environment
    "environment": "Environment",
    "device": "Device",
    "memory": "Memory",
    "began": "Began",
    "duration": "Duration",
    "command": "Command",
    "unread": "Files that could not be read",
}
