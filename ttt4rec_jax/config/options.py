"""Which models have which option of ModelConfig. Imports nothing."""

TTT = ("ttt4rec",)
COMIREC = ("comirec_sa", "comirec_dr")
BLOCKS = ("ttt4rec", "sasrec", "bert4rec", "iclrec")
TWO_TOWER = (*BLOCKS, "gru4rec", *COMIREC)
# The models that have an option. An option that is not listed applies to all of them.
OPTIONS = {
    "num_blocks": (*BLOCKS, "gru4rec"),
    "num_heads": BLOCKS,
    "ffn": BLOCKS,
    "positions": BLOCKS,
    "inner": TTT,
    "mini_batch_size": TTT,
    "inner_learning_rate": TTT,
    "initializer_range": TTT,
    "initializer_reach": TTT,
    "fast_weight_range": TTT,
    "ttt_impl": TTT,
    "backbone": TTT,
    # the parameters of TTT4Rec are drawn as initializer_range and initializer_reach say
    "initializer": ("sasrec", "gru4rec", "din", *COMIREC, "bert4rec", "iclrec"),
    "block": ("ttt4rec", "sasrec"),
    "filter_share": ("ttt4rec", "sasrec"),
    "score": TWO_TOWER,
    "temperature": TWO_TOWER,
    "target_tower": TWO_TOWER,
    "input_layer": TWO_TOWER,
    "user_tower": TWO_TOWER,
    "time": ("ttt4rec", "sasrec", "gru4rec"),
    "num_interests": COMIREC,
    "interest_rule": COMIREC,
    "routing": ("comirec_dr",),
    "routing_iterations": ("comirec_dr",),
    "din_attention": ("din",),
    "mask_probability": ("bert4rec",),
    "mask_last_probability": ("bert4rec",),
    "num_intents": ("iclrec",),
    "intent_weight": ("iclrec",),
    "contrast_weight": ("iclrec",),
    "contrast_temperature": ("iclrec",),
}
