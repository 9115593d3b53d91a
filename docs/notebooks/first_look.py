# %% [markdown]
# # A first look at the tables
#
# After `gradsim demo`, in the folder of its home.

# %%
import matplotlib.pyplot as plt
import polars as pl

import gradsim_assets as gs

# %% [markdown]
# ## Which method finds the originals?
#
# One row a method, with Wilson's 95 % interval.

# %%
retrieval = gs.load("retrieval", "demo", "paraphrased").sort("accuracy")
methods = retrieval.select("method", "accuracy", "accuracy_low", "accuracy_high")
methods

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.barh(methods["method"], methods["accuracy"], color="#0072b2")
with_interval = methods.drop_nulls()
axes.errorbar(
    with_interval["accuracy"],
    with_interval["method"],
    xerr=[
        (with_interval["accuracy"] - with_interval["accuracy_low"]).to_numpy(),
        (with_interval["accuracy_high"] - with_interval["accuracy"]).to_numpy(),
    ],
    fmt="none",
    color="black",
)
axes.set(xlabel="accuracy (95 % interval)", xlim=(0, 1))
# %% [markdown]
# ## What has training added, component by component?
#
# The same components of the model and of the same network with random weights, on the same variants.

# %%
compared = gs.compare("demo", "demo+untrained").filter(pl.col("depth").is_not_null())
compared.select("component", "accuracy", "other_accuracy", "difference", "difference_low", "difference_high")

# %%
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for (depth,), block in compared.group_by("depth", maintain_order=True):
    axes.scatter(block["other_accuracy"], block["accuracy"], label=f"block {depth}")
axes.plot([0, 1], [0, 1], color="gray", linewidth=1)
axes.set(xlabel="accuracy with random weights", ylabel="accuracy after training", xlim=(0, 1), ylim=(0, 1))
axes.legend()
# %% [markdown]
# ## Where the full gradient is wrong
#
# The variants whose own original is furthest from the top. `gs.scan` filters before anything is read.

# %%
pairs = gs.scan("gradient_similarity", "demo", "paraphrased").filter(pl.col("component") == "full_gradient").collect()
own = pairs.filter(pl.col("variant_id") == pl.col("original_id")).select("variant_id", own="similarity")
best = pairs.group_by("variant_id").agg(best=pl.col("similarity").max())
wrong = own.join(best, on="variant_id").with_columns(margin=pl.col("own") - pl.col("best")).filter(pl.col("margin") < 0)
wrong.sort("margin").head()
