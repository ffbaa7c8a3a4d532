"""Small networks of every coupling: residual streams, depthwise, concat, groups, shuffles, squeezes, heads."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Made = tuple[nn.Module, Tensor]
NETWORKS: dict[str, Callable[[], Made]] = {}


def network(make: Callable[[], Made]) -> Callable[[], Made]:
    NETWORKS[make.__name__] = make
    return make


def made(name: str) -> Made:
    """The network with BatchNorms far from the identity, in eval mode, and an example input."""
    torch.manual_seed(0)
    module, example = NETWORKS[name]()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
            nn.init.uniform_(layer.running_mean, -1, 1)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return module.eval(), example


def conv(into: int, out: int, kernel: int = 3, stride: int = 1, group: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(into, out, kernel, stride, kernel // 2, groups=group, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


def head(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)


def image(size: int = 16) -> Tensor:
    return torch.zeros(2, 3, size, size)


@network
def resnet() -> Made:
    from resnet import cifar_resnet

    return cifar_resnet(8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3), widths=(4, 6, 8)), image()


class PreActivation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return x + self.conv2(torch.relu(self.norm2(y)))


@network
def preactivation() -> Made:
    stem = nn.Conv2d(3, 12, 3, padding=1)
    return nn.Sequential(stem, PreActivation(12), PreActivation(12), nn.BatchNorm2d(12), nn.ReLU(), *head(12)), image()


@network
def vgg() -> Made:
    """A Conv with a bias and no BatchNorm, channels flattened with their positions, Dropout."""
    dense = (nn.Linear(256, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    plain = nn.Conv2d(24, 16, 3, padding=1)
    spatial = (nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    return nn.Sequential(conv(3, 12), nn.MaxPool2d(2), conv(12, 24), plain, *spatial, *dense), image()


class Inverted(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * into
        last = (nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out))
        self.branch = nn.Sequential(conv(into, hidden, 1), conv(hidden, hidden, 3, stride, hidden), *last)
        self.residual = into == out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.residual else self.branch(x)


@network
def mobilenet() -> Made:
    blocks = (Inverted(8, 8, 1), Inverted(8, 12, 2), Inverted(12, 12, 1))
    return nn.Sequential(conv(3, 8, 3, 2), *blocks, conv(12, 24, 1), *head(24)), image()


class Squeeze(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.down(x.mean((2, 3), keepdim=True)))
        return x * torch.sigmoid(self.up(y))


@network
def squeeze_and_excite() -> Made:
    return nn.Sequential(conv(3, 16), Squeeze(16), conv(16, 24, 3, 2), Squeeze(24), *head(24)), image()


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.layers = nn.ModuleList()
        for width in (12, 18, 24):
            layer = nn.Conv2d(width, 6, 3, padding=1, bias=False)
            self.layers.append(nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), layer))
        self.norm, self.head = nn.BatchNorm2d(30), nn.Linear(30, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(torch.relu(self.norm(x)).mean((2, 3)))


@network
def densenet() -> Made:
    return Dense(), image()


class Shuffle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(conv(half, half, 1), conv(half, half, 3, 1, half), conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


@network
def shufflenet() -> Made:
    return nn.Sequential(conv(3, 16), Shuffle(16), Shuffle(16), conv(16, 24, 1), *head(24)), image()


@network
def grouped() -> Made:
    layers = (conv(3, 16), conv(16, 24, 3, 1, 4), conv(24, 24, 3, 2, 4), conv(24, 16, 1))
    return nn.Sequential(*layers, *head(16)), image()


class Writes(nn.Module):
    """Writes into parts of what it reads again, and a layer whose bias is written so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 12), nn.Conv2d(12, 16, 3, padding=1)
        self.drop, self.bias = nn.Dropout(0.1), nn.Parameter(torch.randn(16))
        self.middle, self.last = nn.Linear(16, 16, bias=False), nn.Linear(16, 24)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y[:, 2:5] = y[:, 2:5] * 2
        y[..., 0].zero_()
        y[:, :, 0] = y[:, :, 1]
        z = self.second(y)
        functional.relu_(z)
        bias = self.bias.clone()
        bias[4:8].zero_()
        z = functional.linear(self.drop(z).mean((2, 3)), self.middle.weight, bias)
        return self.head(torch.relu_(self.last(z)))


@network
def writes() -> Made:
    return Writes(), image()


class Tokens(nn.Module):
    """Shapes of other tensors, and a part that runs without autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.one, self.two = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 24), nn.Linear(24, 12)
        self.norm, self.scale = nn.BatchNorm1d(24), nn.Linear(12, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = self.one(x)
        y = torch.relu(self.norm(y.flatten(0, 1)).reshape_as(y))
        y = self.two(y)
        x = x + y * self.scale(x.mean(1, keepdim=True)).relu().expand_as(y)
        with torch.autocast("cpu", enabled=False):
            weights = torch.softmax(x.float(), 1)
        return self.head((x * weights).sum(1))


@network
def tokens() -> Made:
    return Tokens(), image()


class BiasedHeads(nn.Module):
    """Heads with a bias by relative position, from a table with a row for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.out = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 48), nn.Linear(16, 16)
        self.table, self.head = nn.Parameter(torch.randn(4, 31)), nn.Linear(16, 10)
        self.register_buffer("far", (torch.arange(16)[:, None] - torch.arange(16)).add(15))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 4, -1).transpose(1, 2).split([4, 4, 4], 3)
        y = functional.scaled_dot_product_attention(q, k, v, self.table[:, self.far])
        return self.head((x + self.out(y.transpose(1, 2).reshape(b, n, d))).mean(1))


@network
def biased_heads() -> Made:
    return BiasedHeads(), image()


class Parts(nn.Module):
    """Parts of one parameter, as scale and shift of what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 8)
        self.table, self.order = nn.Parameter(torch.randn(1, 24, 1, 1)), nn.Parameter(torch.randn(1, 8, 1, 1))
        self.head = nn.Sequential(*head(8))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift, _ = self.table.chunk(3, 1)
        y = self.second(self.first(x) * scale + shift)
        return self.head(torch.relu(y + self.order.flip(1) + self.table[:, 1::3]))


@network
def parts() -> Made:
    return Parts(), image()


class Affine(nn.Module):
    """An activation with a scale and a shift of its own: StarReLU, and what HGNetV2 has behind its ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(0.9)), nn.Parameter(torch.tensor([-0.4]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.relu(x) ** 2 + self.shift


class Awake(nn.Module):
    """Units that are zero before their activation, and not behind it: what reads them has padding, groups, a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), Affine())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), Affine())
        self.joined, self.grouped = nn.Conv2d(16, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1, groups=2)
        self.up, self.hidden, self.out = nn.ConvTranspose2d(12, 6, 2, 2), nn.Linear(18, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.sigmoid(self.joined(torch.cat([x, self.depthwise(x)], 1)))
        x, y = self.up(x), functional.softplus(self.grouped(x))
        return self.out(torch.sigmoid(self.hidden(torch.cat([x.mean((2, 3)), y.mean((2, 3))], 1))))


@network
def awake() -> Made:
    return Awake(), image()


class GroupNorms(nn.Module):
    """Channels that are normalized in groups, on images and on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.GroupNorm(4, 16), nn.ReLU())
        self.inner = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.GroupNorm(8, 24), nn.SiLU())
        self.last = nn.Sequential(nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.GroupNorm(4, 16))
        self.sequence = nn.Sequential(nn.Conv1d(16, 8, 1), nn.GroupNorm(4, 8), nn.ReLU(), nn.Conv1d(8, 5, 1))
        for module in self.modules():
            if isinstance(module, nn.GroupNorm):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.last(self.inner(x))
        return self.sequence(x.flatten(2)).mean(2)


@network
def group_norms() -> Made:
    return GroupNorms(), image()


class Products(nn.Module):
    """Layers and heads as products: of a matrix and a weight, of sums, and as Einstein wrote them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 10)
        self.into, self.shift = nn.Parameter(torch.randn(16, 48) / 4), nn.Parameter(torch.randn(48))
        self.out = nn.Parameter(torch.randn(16, 16) / 4)
        self.wide, self.narrow = nn.Parameter(torch.randn(16, 32) / 4), nn.Parameter(torch.randn(32, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        n = x.shape[1]
        q, k, v = torch.addmm(self.shift, x.reshape(-1, 16), self.into).reshape(-1, n, 3, 4, 4).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / 2
        scores = scores.masked_fill(torch.ones(n, n).tril() == 0, -torch.inf)
        x = x + torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2) @ self.out
        return self.head((x + torch.sin(x @ self.wide) @ self.narrow).mean(1))


@network
def products() -> Made:
    return Products(), image()


class Looks(nn.Module):
    """Attention to channels and to places, which reads means and extremes over channels, spelled in several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = conv(3, 16), nn.Conv2d(16, 12, 3, padding=1), conv(12, 8)
        self.squeeze = nn.Sequential(nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1))
        self.place, self.places = nn.Conv2d(2, 1, 7, padding=3), nn.Conv2d(3, 1, 3, padding=1, bias=False)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)) + self.squeeze(x.amax((2, 3), keepdim=True)))
        x = x * torch.sigmoid(self.place(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))
        x = self.second(x)
        places = [x.max(1)[0].unsqueeze(1), x.min(1, keepdim=True).values, x.mean(1).unsqueeze(1)]
        x = self.third(x * torch.sigmoid(self.places(torch.cat(places, 1)))) / (
            1 + x.mean((1, 2, 3), keepdim=True).abs()
        )
        return self.head(x.max(3).values.max(2)[0])


@network
def looks() -> Made:
    return Looks(), image()


class ResponseNorms(nn.Module):
    """Hidden units that are divided by the mean of their norms."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.wide, self.narrow, self.head = nn.Linear(8, 32), nn.Linear(32, 8), nn.Linear(8, 10)
        self.scale, self.shift = nn.Parameter(torch.randn(32)), nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).permute(0, 2, 3, 1)
        y = functional.gelu(self.wide(self.norm(x)))
        size = y.norm(p=2, dim=(1, 2), keepdim=True)
        response = size / (size.mean(-1, keepdim=True) + 1e-6)
        y = y + torch.addcmul(self.shift, self.scale, y * response)
        return self.head((x + self.narrow(y)).mean((1, 2)))


@network
def response_norms() -> Made:
    return ResponseNorms(), image()


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Sequential(conv(3, 8), conv(8, 8)), nn.Sequential(conv(8, 12), conv(12, 12))
        self.middle = conv(12, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.join2, self.join1 = conv(24, 12), conv(16, 8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(functional.max_pool2d(a, 2))
        c = self.middle(functional.max_pool2d(b, 2))
        b = self.join2(torch.cat([self.up2(c), b], 1))
        return self.head(self.join1(torch.cat([self.up1(b), a], 1)))


@network
def unet() -> Made:
    return UNet(), image(32)


@network
def encoder() -> Made:
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu"), torch.zeros(2, 5, 32)


class VitBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        split = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-1, -2)) * (d // self.heads) ** -0.5).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 4, 4)
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 32)), nn.Parameter(torch.randn(1, 17, 32))
        self.blocks = nn.Sequential(VitBlock(32, 4), VitBlock(32, 4))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.place
        return self.head(self.norm(self.blocks(x))[:, 0])


@network
def vit() -> Made:
    return Vit(), image()


class NextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm, self.scale = nn.LayerNorm(width), nn.Parameter(torch.ones(width))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        return x + (self.scale * y).permute(0, 3, 1, 2)


@network
def convnext() -> Made:
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 10))
    return nn.Sequential(nn.Conv2d(3, 16, 4, 4), NextBlock(16), NextBlock(16), *pool), image(32)


class ScaledHeads(nn.Module):
    """Heads with scales of their own: of the query, from the input, and of the answer; one of them is added, too."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.gate, self.out = nn.Linear(width, 3 * width), nn.Linear(width, heads), nn.Linear(width, width)
        self.heat, self.scale, self.shift = (nn.Parameter(torch.randn(heads)) for _ in range(3))
        self.register_buffer("sign", torch.randn(heads).sign())

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q * self.heat.view(-1, 1, 1), k, v)
        y = y * torch.sigmoid(self.gate(x)).transpose(1, 2).unsqueeze(-1) * self.sign[:, None, None]
        y = torch.where(self.scale.view(-1, 1, 1) > 0, y * self.scale.view(1, -1, 1, 1), y)
        return self.out((y + self.shift[:, None, None]).transpose(1, 2).reshape(b, n, -1))


@network
def scaled_heads() -> Made:
    return nn.Sequential(nn.Linear(8, 12), ScaledHeads(12, 3), nn.ReLU(), nn.Linear(12, 4)), torch.zeros(2, 5, 8)


class ScaledGroups(nn.Module):
    """Groups of channels with a scale for each group, and with one for each place in a group."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 12, 1), nn.Conv2d(12, 4, 1)
        self.groups, self.places = nn.Conv2d(3, 4, 1), nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).unflatten(1, (4, 3)) * self.groups(x).sigmoid().unsqueeze(2)
        y = self.second(y.flatten(1, 2)).unflatten(1, (4, 3)) * self.places
        return self.third(y.relu().flatten(1, 2))


@network
def scaled_groups() -> Made:
    return ScaledGroups(), image()
