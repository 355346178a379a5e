"""Prints vectors: operation, argument, shapes, sizes, the result's shape or "error", its elements; with tabs between.

Elements of all tensors are numbered through, those of the first one from 0; what is padded is -1.
"""

import random

import einops
import numpy as np

random.seed(28)


def tensors(shapes):
    first, out = 0, []
    for shape in shapes:
        count = int(np.prod(shape, dtype=int))
        out.append(np.arange(first, first + count).reshape(shape))
        first += count
    return out


def text(numbers):
    return " ".join(str(int(number)) for number in numbers)


def vector(operation, argument, shapes, make, sizes=None):
    sizes = sizes or {}
    try:
        made = make(*tensors(shapes))
        result = [text(made.shape), text(made.ravel())]
    except (einops.EinopsError, ValueError, IndexError):
        result = ["error", ""]
    shapes = ";".join(text(shape) for shape in shapes)
    print("\t".join([operation, argument, shapes, " ".join(f"{k}={v}" for k, v in sizes.items())] + result))


def rearrange(pattern, shape, **sizes):
    vector("rearrange", pattern, [shape], lambda t: einops.rearrange(t, pattern, **sizes), sizes)


# As in the documentation of einops, and in models.
rearrange("b h w c -> b h w c", (2, 3, 4, 1))
rearrange("b h w c -> (b h) w c", (2, 3, 4, 1))
rearrange("b h w c -> h (b w) c", (2, 3, 4, 1))
rearrange("b h w c -> b c h w", (2, 3, 2, 3))
rearrange("b h w c -> b (c h w)", (2, 3, 2, 3))
rearrange("b (h1 h) (w1 w) c -> (b h1 w1) h w c", (1, 4, 4, 2), h1=2, w1=2)
rearrange("b (h h1) (w w1) c -> b h w (c h1 w1)", (1, 4, 4, 2), h1=2, w1=2)
rearrange("(h two d) k -> (h d two) k", (12, 2), h=2, two=2)
rearrange("(h d two) k -> (h two d) k", (12, 2), h=2, two=2)
rearrange("(g n d) k -> g n d k", (12, 2), g=2, d=3)
rearrange("i o -> o i", (5, 3))

# One, the ellipsis, white space, parentheses.
rearrange("a 1 b -> a b", (3, 1, 4))
rearrange("a b -> a 1 b 1", (3, 4))
rearrange("a () b -> () (b a)", (3, 1, 4))
rearrange("(1 a) b -> a (b 1)", (3, 4))
rearrange("... -> ...", (2, 3))
rearrange("... -> (...)", (2, 3, 2))
rearrange("... a -> a ...", (2, 3, 4))
rearrange("a ... b -> b ... a", (2, 3, 2, 3))
rearrange("a ... -> (a ...)", (2, 3, 2))
rearrange("a ... -> (... a)", (2, 3, 2))
rearrange("a ... b -> a b ...", (2, 3))
rearrange("  a   (b  c)->(c a)b ", (2, 6), b=3)
rearrange(" -> ", ())
rearrange(" -> 1", ())
rearrange("... -> 1 ...", ())
rearrange("a b -> (b a)", (0, 3))
rearrange("(a b) c -> b a c", (0, 3), b=2)
rearrange("a1 long_name -> long_name a1", (2, 3))

# What does not fit.
rearrange("a b -> b a", (2, 3, 4))
rearrange("a b -> a", (2, 3))
rearrange("a -> a b", (2,))
rearrange("a a -> a", (2, 2))
rearrange("a b -> a b a", (2, 3))
rearrange("a b", (2, 3))
rearrange("a b -> b a -> a b", (2, 3))
rearrange("(a b) c -> a b c", (4, 3))
rearrange("(a b) c -> a b c", (4, 3), a=3)
rearrange("(a b) c -> a b c", (4, 3), a=2, b=3)
rearrange("a b -> b a", (2, 3), a=3)
rearrange("a b -> b a", (2, 3), c=3)
rearrange("a 1 -> a", (2, 3))
rearrange("a 3 -> 3 a", (2, 3))
rearrange("a -> a 2", (2,))
rearrange("(a b -> a b", (4,), a=2)
rearrange("a) b -> a b", (4, 2))
rearrange("((a b) c) -> a b c", (8,), a=2, b=2)
rearrange("(a ...) -> a ...", (4,), a=2)
rearrange("a ... -> a", (4, 2))
rearrange("a -> a ...", (4,))
rearrange("... ... -> ...", (4, 2))
rearrange("a .. -> a", (4, 2))
rearrange("a_ b -> b a_", (4, 2))
rearrange("_a b -> b _a", (4, 2))
rearrange("a-b c -> c", (4, 2))
rearrange("2a b -> b 2a", (4, 2))

# At random: axes, put in order, some of them joined on either side.
for _ in range(150):
    sizes = {name: random.choice((1, 2, 2, 3, 4)) for name in random.sample("abcdef", random.randint(1, 5))}
    while np.prod(list(sizes.values())) > 72:
        sizes[random.choice(list(sizes))] = 1

    def side():
        order = random.sample(list(sizes), len(sizes))
        groups = []
        for name in order:
            if groups and random.random() < 0.4:
                groups[-1].append(name)
            else:
                groups.append([name])
        return groups

    left, right = side(), side()
    pattern = " -> ".join(" ".join(g[0] if len(g) == 1 else f"({' '.join(g)})" for g in s) for s in (left, right))
    shape = [int(np.prod([sizes[name] for name in group])) for group in left]
    follows = {random.choice(group) for group in left}
    rearrange(pattern, shape, **{name: size for name, size in sizes.items() if name not in follows})

# numpy
for _ in range(60):
    shape = [random.randint(1, 4) for _ in range(random.randint(1, 4))]
    dim = random.randrange(len(shape))

    def other(extent):
        return shape[:dim] + [extent] + shape[dim + 1 :]

    order = random.sample(range(len(shape)), len(shape))
    vector("transpose", text(order), [shape], lambda t: np.transpose(t, order))
    parts = [shape] + [other(random.randint(0, 3)) for _ in range(random.randint(0, 2))]
    vector("concatenate", str(dim), parts, lambda *t: np.concatenate(t, axis=dim))
    at = random.randint(0, len(shape))
    vector("stack", str(at), [shape] * random.randint(1, 3), lambda *t: np.stack(t, axis=at))
    to = shape[dim] + random.randint(0, 3)
    width = [(0, to - shape[dim] if d == dim else 0) for d in range(len(shape))]
    vector("pad", f"{dim} {to}", [shape], lambda t: np.pad(t, width, constant_values=-1))
    begin = random.randint(0, shape[dim])
    end = random.randint(begin, shape[dim])
    vector("take", f"{dim} {begin} {end}", [shape], lambda t: np.take(t, range(begin, end), axis=dim))
    count = random.randint(1, 4)
    vector("split", f"{dim} {count}", [shape], lambda t: np.split(t, count, axis=dim)[count - 1])
