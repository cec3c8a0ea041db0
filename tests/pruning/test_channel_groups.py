"""What the analysis finds to remove, operator by operator, each held against the original with zeros."""

from __future__ import annotations

import pytest

from modelopt.runtime.worker_runner import WorkerRunner
from tests.campaigns.pruned import found_in, hold, random_feeds
from tests.pruning.layers import SEQUENCE, layer

LAYERS = {
    "bias": layer(
        "m = MatMul (x, w)  a = Add (b, m)  r = Relu (a)  y = MatMul (r, v)",
        (6,),
        x=SEQUENCE,
        w=(4, 6),
        b=(6,),
        v=(6, 2),
    ),
    "weights behind Transpose": layer(
        "t = Transpose (w)  m = MatMul (x, t)  y = MatMul (m, v)", (6,), x=SEQUENCE, w=(6, 4), v=(6, 2)
    ),
    "weights that are computed": layer(
        "t = Neg (w)  m = MatMul (x, v)  y = MatMul (m, t)", (), "fold first", x=SEQUENCE, w=(6, 2), v=(4, 6)
    ),
    "a vector": layer("m = MatMul (x, w)  y = MatMul (m, v)", (6,), x=SEQUENCE, w=(4, 6), v=(6,)),
    "PRelu": layer(
        "c = Conv (x, w)  p = PRelu (c, s)  y = Conv (p, v)", (6,), w=(6, 4, 1, 1), s=(6, 1, 1), v=(2, 6, 1, 1)
    ),
    "Slice": layer(
        "c = Conv (x, w)  s = Slice (c, i, j, i)  t = Relu (s)  y = Conv (t, v)",
        (3,),
        "nothing sums over it",
        more="int64[1] i = {1}, int64[1] j = {4}",
        w=(6, 4, 1, 1),
        v=(2, 3, 1, 1),
    ),
    "Slice with steps": layer(
        "c = Conv (x, w)  s = Slice (c, i, j, i, k)  y = Conv (s, v)",
        (),
        "leaves some out",
        more="int64[1] i = {1}, int64[1] j = {6}, int64[1] k = {2}",
        w=(6, 4, 1, 1),
        v=(2, 3, 1, 1),
    ),
    "Gather": layer(
        "c = Conv (x, w)  s = Gather <axis = 1> (c, i)  y = Conv (s, v)",
        (3,),
        "nothing sums over it",
        more="int64[3] i = {4, -6, 2}",
        w=(6, 4, 1, 1),
        v=(2, 3, 1, 1),
    ),
    "Gather of one": layer(
        "m = MatMul (x, w)  s = Gather <axis = 2> (m, i)  n = MatMul (m, v)  "
        "t = ReduceSum <keepdims = 0> (n, k)  y = Add (s, t)",
        (5,),
        "Gather picks it alone",
        x=SEQUENCE,
        more="int64 i = {1}, int64[1] k = {2}",
        w=(4, 6),
        v=(6, 1),
    ),
    "Pad": layer(
        "c = Conv (x, w)  p = Pad (c, i)  y = Conv (p, v)",
        (6,),
        more="int64[8] i = {0, 1, 0, 0, 0, 2, 0, 0}",
        w=(6, 4, 1, 1),
        v=(2, 9, 1, 1),
    ),
    "Tile": layer(
        "c = Conv (x, w)  p = Tile (c, i)  y = Conv (p, v)",
        (6,),
        more="int64[4] i = {1, 2, 1, 1}",
        w=(6, 4, 1, 1),
        v=(2, 12, 1, 1),
    ),
    "Expand": layer(
        "c = MatMul (x, w)  e = Expand (b, i)  a = Add (c, e)  y = MatMul (a, v)",
        (6,),
        x=SEQUENCE,
        more="int64[2] i = {1, 6}",
        w=(4, 6),
        b=(1, 1),
        v=(6, 2),
    ),
    "Reshape with sizes of Shape": layer(
        "c = MatMul (x, w)  s = Shape (c)  i = Slice (s, z, t)  j = Concat <axis = 0> (i, k)  "
        "r = Reshape (c, j)  q = Flatten <axis = 2> (r)  y = MatMul (q, v)",
        (6,),
        x=SEQUENCE,
        more="int64[1] z = {0}, int64[1] t = {2}, int64[2] k = {6, 1}",
        w=(4, 6),
        v=(6, 2),
    ),
    "a size that is computed with": layer(
        "c = MatMul (x, w)  s = Shape (c)  i = Gather (s, k)  f = Cast <to = 1> (i)  m = Mul (c, f)  y = MatMul (m, v)",
        (),
        "computes with its size",
        x=SEQUENCE,
        more="int64 k = {2}",
        w=(4, 6),
        v=(6, 2),
    ),
    "DepthToSpace": layer(
        "c = Conv (x, w)  d = DepthToSpace <blocksize = 2> (c)  y = Conv (d, v)", (3,), w=(12, 4, 1, 1), v=(2, 3, 1, 1)
    ),
    "SpaceToDepth": layer(
        "c = Conv (x, w)  d = SpaceToDepth <blocksize = 2> (c)  y = Conv (d, v)", (3,), w=(3, 4, 1, 1), v=(2, 12, 1, 1)
    ),
    "LRN": layer(
        "c = Conv (x, w)  d = LRN <size = 3> (c)  y = Conv (d, v)",
        (),
        "divides it by its neighbours",
        w=(6, 4, 1, 1),
        v=(2, 6, 1, 1),
    ),
    "GroupNormalization": layer(
        "c = Conv (x, w)  d = GroupNormalization <num_groups = 3> (c, s, b)  y = Conv (d, v)",
        (3,),
        w=(6, 4, 1, 1),
        s=(6,),
        b=(6,),
        v=(2, 6, 1, 1),
    ),
    "RMSNormalization": layer(
        "c = MatMul (x, w)  d = RMSNormalization (c, s)  y = MatMul (d, v)",
        (),
        "computes statistics",
        x=SEQUENCE,
        w=(4, 6),
        s=(6,),
        v=(6, 2),
    ),
    "FusedMatMul": layer(
        "c = com.microsoft.FusedMatMul <transB = 1> (x, w)  d = com.microsoft.BiasGelu (c, b)  y = MatMul (d, v)",
        (6,),
        x=SEQUENCE,
        w=(6, 4),
        b=(6,),
        v=(6, 2),
    ),
    "FusedConv": layer(
        'c = com.microsoft.FusedConv <activation = "Relu", kernel_shape = [1, 1]> (x, w, b)  y = Conv (c, v)',
        (6,),
        w=(6, 4, 1, 1),
        b=(6,),
        v=(2, 6, 1, 1),
    ),
    "packed Attention": layer(
        "a = com.microsoft.Attention <num_heads = 3> (x, w, b)  y = MatMul (a, v)",
        (3,),
        x=SEQUENCE,
        w=(4, 18),
        b=(18,),
        v=(6, 2),
    ),
    "Attention of fewer keys": layer(
        "q = MatMul (x, w)  k = MatMul (x, u)  p = MatMul (x, t)  "
        "a = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, p)  y = MatMul (a, v)",
        (2,),
        x=SEQUENCE,
        w=(4, 8),
        u=(4, 4),
        t=(4, 4),
        v=(8, 2),
    ),
    "LSTM": layer(
        'h, i, j = LSTM <hidden_size = 3, direction = "bidirectional"> (x, w, r, b)  '
        "t = Transpose <perm = [0, 2, 1, 3]> (h)  f = Reshape (t, k)  y = MatMul (f, v)",
        (3,),
        x="5, N, 4",
        more="int64[3] k = {0, 0, 6}",
        w=(2, 12, 4),
        r=(2, 12, 3),
        b=(2, 24),
        v=(6, 2),
    ),
    "GRU": layer(
        "h, i = GRU <hidden_size = 3> (x, w, r)  y = MatMul (i, v)",
        (3,),
        x="5, N, 4",
        w=(1, 9, 4),
        r=(1, 9, 3),
        v=(3, 2),
    ),
    "Einsum": layer(
        'e = Einsum <equation = "btk,hkd->bthd"> (x, w)  y = Einsum <equation = "bthd,dn->bthn"> (e, v)',
        (3,),
        x=SEQUENCE,
        w=(2, 4, 3),
        v=(3, 2),
    ),
    "old Softmax": layer(
        "c = MatMul (x, w)  s = Softmax <axis = 1> (c)  y = MatMul (s, v)", (6,), x=SEQUENCE, w=(4, 6), v=(6, 2)
    ),
    "one channel": layer(
        "c = Conv (x, w)  m = Mul (c, x)  y = Conv (m, v)", (), "all that an axis has", w=(1, 4, 1, 1), v=(2, 4, 1, 1)
    ),
    "quantized weights": layer(
        "d = DequantizeLinear (q, s)  m = MatMul (x, w)  y = MatMul (m, d)",
        (),
        "prune before quantization",
        x=SEQUENCE,
        more="int8[2, 1] q = {1, 2}, float s = {0.1}",
        w=(4, 2),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, runner: WorkerRunner) -> None:
    case = LAYERS[name]
    model = case.model()
    channels = found_in(model, runner)[1]
    assert tuple(group.width for group in channels.groups) == case.widths, channels
    assert any(case.reason in why for why in (*channels.refused, *channels.unproven, "")), channels
    held = hold(model, runner, random_feeds(model, 0), share=0.4, seed=0)
    assert held.error < 1e-5
    assert held.moved > 1e-3 or not case.widths
