import resource, torch, regard, gc
from regard.distributed import context_parallel
from regard import masks
def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key): return int(line.split()[1]) / 1024
def memory(length=65536, strategy="ring", order="zigzag", heads=16):
    cp = context_parallel(strategy=strategy, order=order)
    def work(n):
        q, k, v, g = (torch.randn(1, heads, n // cp.world, 64) for _ in range(4))
        q.requires_grad_(); k.requires_grad_(); v.requires_grad_()
        out, _ = cp.attention(q, k, v, masks.causal() & masks.window(1024))
        out.backward(g)
    work(4096); gc.collect()
    open("/proc/self/clear_refs", "w").write("5")
    base = status("VmRSS")
    work(length)
    return round(status("VmHWM") - base, 1), round(length * heads * 64 * 4 / 2**20 / cp.world, 1)
