"""Airflow: asks every hour whether a cycle is due (schedule.every in logtune.toml), then writes the report.

Copy to the dags folder; `logtune` must be on the worker's PATH. It retries nothing: after a failure the schedule waits
by itself, ever longer.
"""

from datetime import UTC, datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

HOME = "/srv/assistant"  # where logtune.toml lies

with DAG(
    "logtune_cycle",
    schedule="@hourly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 0, "execution_timeout": timedelta(hours=24)},
):
    # 3: candidates were made and none passed its gate, which is a result and no failure
    cycle = BashOperator(
        task_id="cycle", bash_command=f"cd {HOME} && (logtune schedule --begin --json || [ $? -eq 3 ])"
    )
    report = BashOperator(task_id="report", bash_command=f"cd {HOME} && logtune report -o report.html")
    _ = cycle >> report
