"""The sentences that reports hold in English, and how they read in Chinese: reasons to keep a layer, and notes.

Each is a template of the library's with names for what is filled in, such as ``{stride}``, and ``{plural}`` for an
ending that Chinese has not; see `sentences.in_language`.
"""

from __future__ import annotations

CHINESE_SENTENCES: dict[str, str] = {
    # Why a layer is kept: its geometry, and the rule of AMCT
    "it is a {kind}, which the method {method} does not split": "该层为 {kind}，不在方法 {method} 的分解范围内",
    "a {kind} has not the two axes that a separable split takes": "{kind} 没有可分离分解所需的两个空间轴",
    "its kernel {kernel} is below 2 on an axis, so there is nothing to separate": (
        "卷积核 {kernel} 在某一轴上小于 2，无可分离"
    ),
    "it is a {kind}, and AMCT separates Conv2d alone": "该层为 {kind}，而 AMCT 仅分解 Conv2d",
    "its dilation {dilation} is above 1": "空洞率 {dilation} 大于 1",
    "its stride {stride} is above 2": "步长 {stride} 大于 2",
    "its kernel {kernel} is below 3 on an axis": "卷积核 {kernel} 在某一轴上小于 3",
    "its {channels} channels at the narrower end are below {least}": "输入与输出中较少的通道数 {channels} 低于 {least}",
    "its full rank {rank} is below 16": "满秩 {rank} 低于 16",
    "it has {groups} groups": "该层为分组卷积，共 {groups} 组",
    "a {kind} has no kernel": "{kind} 没有空间卷积核",
    "its kernel is a single place": "卷积核只有一个位置",
    '{why} to put between fewer channels: use method="channel"': (
        '{why}，无法置于更少的通道之间：请改用 method="channel"'
    ),
    "its weight is also that of a layer with another stride, which is split in another form": (
        "与另一个步长不同、分解形式也不同的层共用权重"
    ),
    # what the user has decided, or the data
    "left out by the rule {rule}": "由规则 {rule} 指定保留",
    "FixedRank names no rank for it": "FixedRank 未给出该层的秩",
    "it never ran on the calibration batches": "校准数据上从未运行到该层",
    "it never ran on the example inputs": "示例输入上从未运行到该层",
    "the calibration batches never reach it": "校准数据从未到达该层",
    "its weight is also that of {layer}, {why}": "与 {layer} 共用权重，{why}",
    "which is kept ({why})": "而后者保留（{why}）",
    "which has other settings": "而两者的设置不同",
    # what a split would gain
    "a split at rank{plural} {ranks} would": "以秩 {ranks} 分解后",
    "{split} have {after} parameters, no fewer than {before}": "{split}参数量为 {after}，不少于原来的 {before}",
    "{split} take {after} MACs, no fewer than {before}": "{split}乘加次数为 {after}，不少于原来的 {before}",
    "no split at multiples of {multiple} {wanted}": "秩取 {multiple} 的倍数时，没有任何分解方案{wanted}",
    "is measurably faster": "实测更快",
    "has fewer parameters and MACs": "能同时减少参数量和乘加次数",
    "kept within the budget": "在预算内保留",
    "decomposing it does not pay on this device": "在该设备上分解此层并无收益",
    "only layers that were timed are chosen from by their times": "仅在已测得时延的层中按时延选择",
    # what kind of module it is
    (
        "its parameters are computed by a parametrisation (weight_norm, spectral_norm, …): "
        "remove it first (torch.nn.utils.parametrize.remove_parametrizations)"
    ): (
        "参数由 parametrization 计算得出（weight_norm、spectral_norm 等）：请先将其移除"
        "（torch.nn.utils.parametrize.remove_parametrizations）"
    ),
    (
        "its weight is not a plain Parameter (weight_norm, spectral_norm, pruning, …): "
        "make it permanent first (remove_weight_norm, prune.remove, …)"
    ): (
        "权重不是普通的 Parameter（weight_norm、spectral_norm、剪枝等）：请先将其固化"
        "（remove_weight_norm、prune.remove 等）"
    ),
    "it holds more than weight and bias ({names}), which a split would lose": (
        "除权重和偏置外还持有其他内容（{names}），分解后将会丢失"
    ),
    "its forward method was replaced on the object, which a split would lose": (
        "该对象的 forward 方法被替换过，分解后将会丢失"
    ),
    "its attributes are not those that torch.nn.{kind} gives itself": "属性与 torch.nn.{kind} 自身的不符",
    "its bias is not a plain Parameter": "偏置不是普通的 Parameter",
    "its padding was changed after it was made, in one of the two places where it keeps it only": (
        "创建后只修改了两处填充设置中的一处"
    ),
    "its weight is empty": "权重为空",
    "its weight has the layout {layout}, not the strided one": "权重的存储布局为 {layout}，而非 strided",
    "its weight has hooks on its gradient, which a split would lose: decompose first": (
        "权重的梯度上注册了钩子，分解后将会丢失：请先分解"
    ),
    "its weight is {dtype}: only real floating-point weights are decomposed": (
        "权重类型为 {dtype}：仅分解实数浮点权重"
    ),
    "its weight has shape {shape} where its attributes say {expected}": (
        "权重形状为 {shape}，而按其属性应为 {expected}"
    ),
    "its weight is a {kind}, not a plain tensor": "权重是 {kind}，不是普通张量",
    "its shape is not known before its first forward: run the model once, then decompose it": (
        "首次前向之前形状未知：请先运行一次模型再分解"
    ),
    "it is scripted: decompose the Python model, then script or trace it": (
        "该层已脚本化：请先分解 Python 模型，再进行脚本化或追踪"
    ),
    "it is quantised: decompose first, then quantise": "该层已量化：请先分解再量化",
    "it is a transposed convolution, which no method splits": "该层为转置卷积，没有方法可分解",
    "it is a {kind}": "该层为 {kind}",
    "{what} with {names} of its own": "{what}，并自带 {names}",
    "{what}: only torch.nn.{kind} itself is decomposed, and subclasses that add nothing to what it does": (
        "{what}：仅分解 torch.nn.{kind} 本身，以及不改变其行为的子类"
    ),
    "it is part of {layer}, which is decomposed already": "该层属于已分解的 {layer}",
    (
        "its weight is also kept in {place}, outside of the module tree, which a split would leave behind: "
        "keep the layer there instead, and read its weight where it is needed"
    ): "权重还保存在模块树之外的 {place} 中，分解后那里不会更新：请在那里改为保存该层，需要时再读取其权重",
    "its weight is also {name}, which a split would untie": "权重同时也是 {name}，分解会破坏两者的共享",
    # where it stands
    "it is a branch in {place}: merge its branches first (its method {method}), then decompose": (
        "该层是 {place} 中的一个分支：请先合并分支（方法 {method}），再分解"
    ),
    (
        "its weight is read in {place} (by {method}), where that of a split would be composed anew at every call: "
        "to have it decomposed, run the layer there instead"
    ): "权重在 {place} 中被直接读取（{method}），分解后每次调用都要重新合成权重：若要分解，请在那里改为运行该层",
    "it is part of {place}, an adapter ({kind}): merge the adapter first, then decompose": (
        "该层属于适配器 {place}（{kind}）：请先合并适配器，再分解"
    ),
    "the model": "模型本身",
    # A model without layers
    "The model has no {kinds}": "模型中没有 {kinds}",
    "The model has no {kinds}.": "模型中没有 {kinds}。",
    "its {what} are called as functions: decompose before exporting or tracing.": (
        "其中的 {what} 以函数形式调用：请在导出或追踪之前分解。"
    ),
    "{what} are called as functions in {place}: make them layers ({kinds}) to have them decomposed.": (
        "{place} 以函数形式调用 {what}：若要分解，请改写为层（{kinds}）。"
    ),
    "layers": "线性层",
    "convolutions": "卷积",
    "The plan of the search is in a file of its own, which is not in the folder.": (
        "搜索所得的方案保存在单独的文件中，而该文件不在此目录内。"
    ),
    # Where ranks come from
    "EVBMF finds {terms} terms": "EVBMF 估计有 {terms} 项",
    "{found}, the nearest in its window is {rank}": "{found}，取允许区间内最接近的秩 {rank}",
    "{terms} terms hold {share} of the energy": "前 {terms} 项占能量的 {share}",
    "{ratio} of the full rank {rank}": "满秩 {rank} 的 {ratio} 倍",
    "given by FixedRank": "由 FixedRank 给定",
    # What the plan was made for
    "method {method}, rule {rule}, {rest}": "方法 {method}，规则 {rule}，{rest}",
    "ranks by {policy}, multiples of {multiple}, {rest}": "秩由 {policy} 给出并取 {multiple} 的倍数，{rest}",
    "budget {budget}, multiples of {multiple}, {rest}": "预算 {budget}，秩取 {multiple} 的倍数，{rest}",
    "{count} rule{plural} for single layers, {rest}": "{count} 条针对单层的规则，{rest}",
    "calibration {mode}, {rest}": "校准模式 {mode}，{rest}",
    "no calibration, {rest}": "无校准，{rest}",
    "example input {shapes}": "示例输入 {shapes}",
    "no example input": "无示例输入",
    "Budget {budget}: {share} of the {unit}, expected damage {damage}.": (
        "预算 {budget}：剩余{unit} {share}，预期损伤 {damage}。"
    ),
    "Budget {budget}: nothing is decomposed, as {why}.": "预算 {budget}：未分解任何层，因为{why}。",
    "no split of a layer is measurably faster on {device}": "在 {device} 上没有任何一层分解后实测更快",
    "no decomposed model is measurably faster on {device}": "在 {device} 上没有任何分解后的模型实测更快",
    "Budget {budget}: {proof}": "预算 {budget}：{proof}",
    "expected damage {damage}.": "预期损伤 {damage}。",
    "{measured} of the time measured, {expected} expected, in {rounds} on {device}": (
        "实测用时为原来的 {measured}，预期 {expected}，共 {rounds}，设备 {device}"
    ),
    "{measured} of the time measured, {expected} expected, in {rounds} on {device}, with {got} of the CPU time that it could use": (  # noqa: E501
        "实测用时为原来的 {measured}，预期 {expected}，共 {rounds}，设备 {device}，期间获得可用 CPU 时间的 {got}"
    ),
    "{count} round{plural}": "{count} 轮",
    "MACs": "乘加次数",
    "parameters": "参数量",
    "time": "用时",
    # Errors of outputs
    "Response errors are on {batches}": "响应误差基于{batches}",
    "the model's outputs cannot be compared.": "模型输出无法比较。",
    "Output error on {batches}: {error} (plain splits: {plain}).": (
        "{batches}上的输出误差：{error}（未拟合的分解：{plain}）。"
    ),
    "Output error on {batches}: {error} (plain splits: {plain}), top-1 agreement with the original {agreement} ({before}).": (  # noqa: E501
        "{batches}上的输出误差：{error}（未拟合的分解：{plain}），与原模型的 Top-1 一致率 {agreement}（{before}）。"
    ),
    "{count} batch{plural} held out of the fit": "留出的 {count} 个批次",
    "{count} batch{plural} that they were fitted to, as there was no other": "拟合所用的 {count} 个批次（仅有这些）",
    # Search
    "after {done} of {all} evaluations, as the time limit was near": ("时间将尽，仅完成 {all} 次评估中的 {done} 次"),
    # Measuring
    "the process got {share} of the CPU time that it could use": "进程仅获得其可用 CPU 时间的 {share}",
    "the layer alone seems to take longer than the whole model": "该层单独的用时似乎比整个模型还长",
    "a batch of {size} does not fit into the memory of {device} in {dtype}.": (
        "{device} 的内存放不下 {dtype} 下大小为 {size} 的批次。"
    ),
    "{count} of {all} verdicts are unknown, as their times are not to be trusted: {why}": (
        "{all} 个结论中有 {count} 个因计时不可信而不作结论：{why}"
    ),
    (
        "the process got as little as {share} of the CPU time that it could use, and {least} are needed. Stop other "
        "programs, raise the CPU quota of the container, or use fewer threads (torch.set_num_threads)."
    ): (
        "进程最少时仅获得其可用 CPU 时间的 {share}，而至少需要 {least}。请停止其他程序、提高容器的 CPU 配额，"
        "或减少线程数（torch.set_num_threads）。"
    ),
    "{name} alone seems to take longer than the whole model. Measure again on a quiet machine.": (
        "{name} 单独的用时似乎比整个模型还长。请在空闲的机器上重新测量。"
    ),
    "not finite": "非有限值",
    "its responses reach {largest}, more than {dtype} can hold": "响应达到 {largest}，超出 {dtype} 的表示范围",
    "error {error}, expected at most {tolerance}": "误差 {error}，应不超过 {tolerance}",
    "error {error} at one place, expected at most {tolerance}": "单点误差 {error}，应不超过 {tolerance}",
    "Operators that run on the CPU were not watched: {why}.": "未能监测到改在 CPU 上运行的算子：{why}。",
    "{variable}=1 silences torch_npu: unset it": "{variable}=1 关闭了 torch_npu 的提示：请取消该变量",
    "of the processes of a group only the first reports them, and this one has RANK={number}": (
        "进程组中只有第一个进程报告它们，而本进程的 RANK={number}"
    ),
    "TORCH_CPP_LOG_LEVEL={level} silences them: set it to WARNING": (
        "TORCH_CPP_LOG_LEVEL={level} 屏蔽了这些提示：请设为 WARNING"
    ),
    (
        "torch_npu names an operator that runs on the CPU only once a process, so those that ran before are missing. "
        "To be sure, run once with {variable}=1, set before Python starts, which makes an operator without a kernel "
        "an error."
    ): (
        "torch_npu 对每个改在 CPU 上运行的算子在一个进程内只提示一次，之前运行过的不在其中。若要确认，请在启动 Python "
        "之前设置 {variable}=1 再运行一次，缺少内核的算子届时会报错。"
    ),
    (
        "Compiled times include the conversion of each convolution's weight to the chip's format, as weights enter "
        "torchair's graph as NCHW inputs"
    ): "编译模式的时间包含把每个卷积的权重转换为芯片格式的开销，因为权重是以 NCHW 输入进入 torchair 图的",
    "only a .om file has them converted beforehand.": "只有 .om 文件会预先完成转换。",
    # Deploying
    "{operator} in {layer} as {operators}": "{layer} 中的 {operator} 改写为 {operators}",
    "{operator} as {operators}": "{operator} 改写为 {operators}",
    "{count} local functions inlined": "内联 {count} 个局部函数",
    "{count} nodes renamed, as ATC wants all names different": "重命名 {count} 个节点（ATC 要求名称互不相同）",
    "opset domain {domain} left out, as nothing is of it": "去掉未使用的算子域 {domain}",
    "a tensor": "张量",
    "atc for {chip}: compiled": "{chip} 的 atc：编译成功",
    "atc for {chip}: failed:\n{error}": "{chip} 的 atc：失败：\n{error}",
    "ais_bench for {chip} failed:\n{error}": "{chip} 的 ais_bench 失败：\n{error}",
    "ais_bench for {chip}: {time} ms": "{chip} 的 ais_bench：{time} ms",
    "{timing}, the original {before} ms: {ratio} times as fast": "{timing}，原模型 {before} ms，快 {ratio} 倍",
}
"""By the English template."""
