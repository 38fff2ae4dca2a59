import time, torch, regard, resource
from regard.distributed import context_parallel
from regard import masks
def speed(order, n=3, strategy="ring", length=16384):
    torch.manual_seed(0)
    cp = context_parallel(strategy=strategy, order=order)
    q, k, v = (torch.randn(1, 4, length // cp.world, 64, requires_grad=True) for _ in range(3))
    g = torch.randn(1, 4, length // cp.world, 64)
    times = []
    for _ in range(n):
        torch.distributed.barrier()
        t = time.perf_counter()
        out, _ = cp.attention(q, k, v, masks.causal())
        (out * g).sum().backward()
        torch.distributed.barrier()
        times.append(time.perf_counter() - t)
    return sorted(times)[n // 2], cp.sent
def both(length=16384):
    out = []
    for _ in range(2):
        out += [(o, speed(o, 1, length=length)) for o in ("contiguous", "zigzag")]
    return out
