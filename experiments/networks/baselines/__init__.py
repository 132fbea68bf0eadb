"""The systems that the papers compare with, and small networks of today, one file each.

The papers print sizes, not layers. A size-consistent network is one of the usual kind whose count rounds to the printed
megabytes; each class says its count, and how sure it is that the papers ran the same.

| file | system | reference |
|---|---|---|
| dfn | Dynamic filter networks, per sample | Jia et al., NIPS 2016 |
| weightnet | WeightNet | Ma et al., ECCV 2020 |
| ddf | Decoupled dynamic filters, per sample | Zhou et al., CVPR 2021 |
| branchynet | BranchyNet | Teerapittayanon et al., ICPR 2016 |
| skipnet | SkipNet | Wang et al., ECCV 2018 |
| drnn | Dynamic recursive network, from its abstract | Guo et al., CVPR 2019 |
| odenet | ODE-Net | Chen et al., NeurIPS 2018 |
| hypernetwork | WRN-40-2 from a static hypernetwork | Ha et al., ICLR 2017 |
| tiniest | cifar10-tiniest | github.com/xvel/cifar10-tiniest |
| resnet8 | ResNet-8 of MLPerf Tiny | Banbury et al., NeurIPS 2021 |

`pieces` is what those share that run some of their pieces for some images alone.
"""
