"""What the papers print, to stand beside what is measured here. MB are 10**6 bytes of float32."""

MODEL_MB = {"alexnet": 11.65, "vgg": 39.01, "resnet": 44.84, "puppet": 1.08}
"""Params Size of v1 tables 3 and 4, v2 tables 2 and 5 (CIFAR-10)."""

SIZES_MB = MODEL_MB | {"mobilenet_v1": 7.52, "mobilenet_v2": 8.90, "squeezenet": 3.96}
"""Params Size of every network of the papers that is built here (v1 tables 1 to 3)."""

BACKBONES = {
    ("alexnet", "fixed"): (0.6586, 0.9205),
    ("alexnet", "puppet"): (0.6933, 0.9405),
    ("alexnet", "adaptive"): (0.7005, 0.9413),
    ("vgg", "fixed"): (0.6784, 0.9198),
    ("vgg", "puppet"): (0.6778, 0.9302),
    ("vgg", "adaptive"): (0.6842, 0.9013),
    ("resnet", "fixed"): (0.6894, 0.9517),
    ("resnet", "puppet"): (0.6669, 0.9546),
    ("resnet", "adaptive"): (0.6825, 0.9431),
}
"""Top-1 and top-5 of v1 table 3, v2 table 2."""

FULL_SET = {
    ("alexnet", "fixed"): (0.8089, 0.9391),
    ("alexnet", "puppet"): (0.8375, 0.9690),
    ("vgg", "fixed"): (0.8105, 0.9537),
    ("vgg", "puppet"): (0.8057, 0.9513),
    ("resnet", "fixed"): (0.8224, 0.9611),
    ("resnet", "puppet"): (0.8047, 0.9670),
}
"""Top-1 and top-5 of v2 table 4, trained on the whole training set; its other half is `BACKBONES`."""

OPERATIONS = {
    "ResNet": {"top1": 0.6894, "top5": 0.9517, "mb": 44.84, "gmacs": 11.40, "s_per_image": 0.0019},
    "Puppet-ResNet": {"top1": 0.6825, "top5": 0.9431, "mb": 1.08, "gmacs": 23.44, "s_per_image": 0.0061},
    "Puppet-CNN": {"top1": 0.7251, "top5": 0.9685, "mb": 1.08, "gmacs": 12.34, "s_per_image": 0.0039},
}
"""v1 table 4, v2 table 5."""

DATASETS = {
    ("cifar100", "alexnet"): (0.4146, 0.6767, 11.84),
    ("cifar100", "vgg"): (0.4506, 0.6766, 39.20),
    ("cifar100", "resnet"): (0.4407, 0.7096, 45.02),
    ("cifar100", "puppet"): (0.5326, 0.7963, 1.08),
    ("mini_imagenet", "alexnet"): (0.3692, 0.6435, 11.84),
    ("mini_imagenet", "vgg"): (0.3295, 0.5994, 39.20),
    ("mini_imagenet", "resnet"): (0.3841, 0.6858, 45.02),
    ("mini_imagenet", "puppet"): (0.4646, 0.7438, 1.08),
}
"""Top-1, top-5 and MB of v1 and v2 table 6."""

CHANNELS = {
    64: (0.04, 0.02),
    128: (0.17, 0.07),
    256: (0.66, 0.28),
    512: (2.63, 1.08),
    1024: (10.50, 4.26),
    2048: (41.97, 16.90),
    4096: (167.83, 67.35),
}
"""Maximum channels: millions of parameters with the state, MB stored (v1 table 5, v2 table 7)."""

ADAPTIVE = {
    "DFN": {"top1": 0.6859, "top5": 0.9313, "mb": 75.89, "s_per_image": 0.0012},
    "WeightNet": {"top1": 0.6277, "top5": 0.9352, "mb": 45.87, "s_per_image": 0.0040},
    "DDFN-SW": {"top1": 0.5555, "top5": 0.9334, "mb": 300.83, "s_per_image": 0.0059},
    "BranchyNet": {"top1": 0.7000, "top5": 0.9394, "mb": 27.69, "s_per_image": 0.0015},
    "SkipNet": {"top1": 0.5582, "top5": 0.8795, "mb": 68.88, "s_per_image": 0.0115},
    "DRNN": {"top1": 0.4171, "top5": 0.6389, "mb": 45.78, "s_per_image": 0.0025},
    "Puppet-CNN": {"top1": 0.7251, "top5": 0.9685, "mb": 1.08, "s_per_image": 0.0039},
}
"""v1 table 1, v2 table 1."""

LIGHTWEIGHT = {
    "AlexNet": {"top1": 0.6586, "top5": 0.9205, "mb": 11.65, "s_per_image": 0.0006},
    "MobileNet-v1": {"top1": 0.5858, "top5": 0.9117, "mb": 7.52, "s_per_image": 0.0018},
    "MobileNet-v2": {"top1": 0.6673, "top5": 0.9333, "mb": 8.90, "s_per_image": 0.0032},
    "SqueezeNet": {"top1": 0.6331, "top5": 0.9434, "mb": 3.96, "s_per_image": 0.0022},
    "Puppet-CNN": ADAPTIVE["Puppet-CNN"],
}
"""v1 table 2, v2 table 3."""
