"""Renders a conda recipe as conda-forge's tools do, and shows what it requires.

python tests/support/render_recipe.py recipe/recipe.yaml
"""

import sys
from pathlib import Path

from rattler_build import RenderConfig, Stage0Recipe, VariantConfig

[rendered] = Stage0Recipe.from_yaml(Path(sys.argv[1]).read_text(encoding="utf-8")).render(
    VariantConfig(), RenderConfig()
)
recipe = rendered.recipe
print(recipe.package.name, recipe.package.version)
for requirement in recipe.requirements.run:
    print("   ", requirement)
