import torch, regard
from regard.distributed import context_parallel
from regard import masks
def compare():
    worst = {}
    for order in ("zigzag", "contiguous"):
        for strategy in ("ring", "gather", "heads"):
            for dtype in (torch.float64, torch.float32):
                for name, mask in MASKS.items():
                    for extra in EXTRAS:
                        torch.manual_seed(0)
                        q = torch.randn(2, 8, 32, 16, dtype=dtype, requires_grad=True)
                        k = torch.randn(2, 4, 32, 16, dtype=dtype, requires_grad=True)
                        v = torch.randn(2, 4, 32, 12, dtype=dtype, requires_grad=True)
                        g = torch.randn(2, 8, 32, 12, dtype=dtype)
                        s = torch.randn(8, dtype=dtype, requires_grad=True)
                        kw = dict(extra)
                        if kw.get("sinks"): kw["sinks"] = s
                        out, w = regard.attention(q, k, v, mask, **kw)
                        (out * g).sum().backward()
                        ref = [t.grad.clone() if t.grad is not None else None for t in (q, k, v, s)]
                        for t in (q, k, v, s): t.grad = None
                        cp = context_parallel(strategy=strategy, order=order)
                        o2, w2 = cp.attention(*(cp.shard(t, 2) for t in (q, k, v)), mask, **kw)
                        (o2 * cp.shard(g, 2)).sum().backward()
                        err = (cp.unshard(o2, 2) - out).abs().max().item()
                        for t, r in zip((q, k, v, s), ref):
                            if r is None: continue
                            cp._ranks.total(t.grad)
                            err = max(err, (t.grad - r).abs().max().item())
                        key = str(dtype)[-2:]
                        if err > worst.get(key, (0,))[0]: worst[key] = (err, order, strategy, name, str(extra))
                        ours = w2.ask("entropy", "received", "max_logit", "distance", ("pool", 5, 7), ("pool", 5, 7, "max"), ("mass", [0, 3, 30]), ("topk", 5))
                        theirs = w.ask("entropy", "received", "max_logit", "distance", ("pool", 5, 7), ("pool", 5, 7, "max"), ("mass", [0, 3, 30]), ("topk", 5))
                        for n, (a, b) in enumerate(zip(ours, theirs)):
                            if n in (0, 2, 3, 6): a = cp.unshard(a, 2)
                            if n == 7:
                                assert torch.equal(torch.where(cp.unshard(a.values, 2) > 1e-9, cp.unshard(a.indices, 2), -1), torch.where(b.values > 1e-9, b.indices, -1)), (name,)
                                a, b = cp.unshard(a.values, 2), b.values
                            e = torch.where(a == b, 0, (a - b).abs()).max().item()
                            if not e <= worst.get(f"stat{n}{key}", (0,))[0]: worst[f"stat{n}{key}"] = (e, order, strategy, name, str(extra))
                        rows = w2.rows([0, 5, 31])
                        e = (rows - w[:, :, [0, 5, 31]]).abs().max().item()
                        if not e <= worst.get("rows" + key, (0,))[0]: worst["rows" + key] = (e, order, strategy, name, str(extra))
    return worst
def odd(b, h, q, kv): return (q + kv + h) % 3 != 0
ids = torch.tensor([[0]*5 + [1]*9 + [2]*18, [3]*20 + [4]*12])
scattered = torch.arange(32) % 3
MASKS = {"none": None, "causal": masks.causal(), "window": masks.causal() & masks.window(5), "docs": masks.causal() & masks.documents(ids), "scattered": masks.documents(scattered),
 "padding": masks.padding(torch.tensor([20, 32])), "where": masks.causal() & masks.where(odd), "prefix": masks.causal() | masks.prefix(6), "not": ~masks.window(4), "dense": torch.rand(2, 8, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.5, "empty": masks.causal(offset=-3), "band": masks.band(2, 3)}
EXTRAS = ({}, {"softcap": 2.0}, {"sinks": True}, {"scale": -0.3})
