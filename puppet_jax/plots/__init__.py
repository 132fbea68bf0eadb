"""Pictures of complexity, depth, trajectories and kernels. Needs matplotlib: `pip install "puppet-jax[plots]"`.

Not imported by `import puppet_jax`; say `from puppet_jax import plots`. A function takes arrays (NumPy or JAX, of any
real dtype, bfloat16 too) and returns a figure that nothing else refers to, made without pyplot: show it as the value
of a notebook cell (after `%matplotlib inline`), keep it with `figure.savefig("name.png")`. With `figure=` it draws
into the figure or subfigure that is given, so that pictures can be composed, and returns the figure that holds it.
Colours are cividis, whose lightness is monotone: pictures survive grey printing and colour blindness, and series
differ by marker and line style as well.
"""

from puppet_jax.plots.accuracy import (
    plot_accuracy_bytes as plot_accuracy_bytes,
    plot_accuracy_compute as plot_accuracy_compute,
)
from puppet_jax.plots.images import (
    plot_complexity as plot_complexity,
    plot_depths as plot_depths,
)
from puppet_jax.plots.weights import (
    plot_kernels as plot_kernels,
    plot_layer_statistics as plot_layer_statistics,
    plot_trajectories as plot_trajectories,
)
