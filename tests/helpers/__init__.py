"""What several test files use. Compiled programs are kept in runs.py."""

from helpers.commands import (
    OPTIMIZED,
    QUICK_TO_COMPILE,
    QUICK_XLA,
    ROOT,
    RUN_COMMANDS,
    SMALL,
    TRY_COMMANDS,
    assert_one_line,
    load_script,
    run_commands,
    run_main,
    run_script,
    try_mistakes,
)
from helpers.finished import (
    epoch_lines,
    make_finished_run,
    simulated_line,
    simulated_ranks,
)
from helpers.raw import (
    CLICK_ROWS,
    as_json,
    as_lines,
    as_parquet,
    contents,
    error_of,
    random_clicks,
    rows_of,
    write_csv,
)
from helpers.registries import registries_restored
from helpers.runs import (
    CACHED,
    MOST_CACHED,
    compiled,
    config_of,
    few_users,
    fit_run,
    fit_runs,
    last_state,
    make_dataset,
    small_config,
    without_times,
)
from helpers.serving import (
    HISTORIES,
    SERVING_CASES,
    STREAMS,
    D,
    L,
    V,
    assert_same_lists,
    catalogue_of,
    make_recommender,
    serving_config,
    split_model,
    timed_dataset,
    write_histories,
)
from helpers.steps import (
    DECAY,
    NUM_TOY_ITEMS,
    RATE,
    batch_of,
    random_batch,
    state_of,
    steps_of,
    toy_step,
)
