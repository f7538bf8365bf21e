//! Plans and runs a statement over a snapshot: the session and its settings, the views that a query sees, and the answer
//! as rows within its bounds. It opens only the files of the snapshot, and it runs inside the worker alone.

use std::sync::Arc;
use std::time::Instant;

use datafusion::common::{DataFusionError, Result as EngineResult, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{LogicalPlan, col, lit};
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use futures_util::StreamExt;
use model::{Gate, Observable};
use store::{Snapshot, Table};

use crate::cell::Cells;
use crate::lake::LakeTable;
use crate::limits::{ANSWER_BYTES_MAX, READER_THREADS_MAX, WORKER_STACK_BYTES};
use crate::wire::Job;
use crate::{Answer, Column, Cut, Refusal, Why};

/// Bytes of JSON around a cell.
const CELL_BYTES: usize = 4;

pub(crate) fn run(statement: Statement, job: &Job, snapshot: Snapshot, cores: usize) -> Result<Answer, Refusal> {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .max_blocking_threads(READER_THREADS_MAX)
        .thread_stack_size(WORKER_STACK_BYTES)
        .enable_time()
        .build()
        .map_err(|error| Refusal::new(Why::Worker, format!("cannot start the engine: {error}")))?;
    let work = async {
        let context = context(job, &snapshot, cores)?;
        let stream = plan(&context, statement, job.query.rows_max).await?;
        collect(stream, job.query.rows_max).await
    };
    let answered = runtime.block_on(async { tokio::time::timeout(job.limits.time(), work).await });
    // Threads that still compute end with the process.
    runtime.shutdown_background();
    match answered {
        Ok(Ok(answer)) => Ok(Answer { milliseconds: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), ..answer }),
        Ok(Err(error)) => Err(refusal(&error, job)),
        Err(_) => {
            let seconds = job.limits.seconds_max;
            Err(Refusal::new(
                Why::Time,
                format!("the query ran longer than {seconds} s; a shorter time or a condition on host helps"),
            ))
        }
    }
}

fn context(job: &Job, snapshot: &Snapshot, cores: usize) -> EngineResult<SessionContext> {
    let memory = usize::try_from(job.limits.memory_bytes_max).unwrap_or(usize::MAX);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory)))
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()?;
    let mut config = SessionConfig::new().with_target_partitions(cores).with_information_schema(true);
    let options = config.options_mut();
    options.execution.parquet.pushdown_filters = true;
    options.execution.parquet.reorder_filters = true;
    options.execution.parquet.bloom_filter_on_read = true;
    options.execution.parquet.enable_page_index = true;
    let context = SessionContext::new_with_config_rt(config, runtime);
    let table = |table| LakeTable::new(snapshot, table).map(Arc::new);
    let events = within(context.read_table(table(Table::Events)?)?, "time", "time", job)?;
    context.register_table("events", events.into_view())?;
    let sightings = within(context.read_table(table(Table::Sightings)?)?, "last_seen", "first_seen", job)?;
    let column = |name: &&str| Ok(context.parse_sql_expr(&sighting_column(name), sightings.schema())?.alias(*name));
    let columns = SIGHTING_COLUMNS.iter().map(column).collect::<EngineResult<Vec<_>>>()?;
    let sightings = sightings.clone().select(columns)?;
    context.register_table("sightings", sightings.into_view())?;
    Ok(context)
}

/// The rows of the time asked for: whose last moment is not before it and whose first is not after it.
fn within(rows: DataFrame, last: &str, first: &str, job: &Job) -> EngineResult<DataFrame> {
    let at = |time: i64| lit(ScalarValue::TimestampMicrosecond(Some(time), Some("UTC".into())));
    let since = job.query.since.map(|since| col(last).gt_eq(at(since)));
    let until = job.query.until.map(|until| col(first).lt(at(until)));
    since.into_iter().chain(until).try_fold(rows, DataFrame::filter)
}

/// Columns of the table of sightings, as people read it.
const SIGHTING_COLUMNS: &[&str] =
    &["kind", "value", "user_name", "device_name", "src_ip", "gates", "count", "blocked", "first_seen", "last_seen"];

/// How a column of sightings comes from what is stored: the kind from its number, the gates from their bits.
fn sighting_column(name: &str) -> String {
    match name {
        "kind" => {
            let kinds = Observable::ALL.iter().map(|kind| format!("WHEN {} THEN '{}'", kind.type_id(), kind_name(*kind)));
            format!("CASE type_id {} END", kinds.collect::<Vec<_>>().join(" "))
        }
        "gates" => {
            let bit =
                |(place, gate): (usize, &Gate)| format!("CASE WHEN (gates & {}) <> 0 THEN '{}' END", 1 << place, gate.as_str());
            format!("concat_ws(',', {})", Gate::ALL.iter().enumerate().map(bit).collect::<Vec<_>>().join(", "))
        }
        stored => format!("\"{stored}\""),
    }
}

fn kind_name(kind: Observable) -> &'static str {
    match kind {
        Observable::Hostname => "hostname",
        Observable::Ip => "ip",
        Observable::UserName => "user",
        Observable::Email => "email",
        Observable::Url => "url",
        Observable::FileName => "file",
        Observable::Hash => "hash",
    }
}

async fn plan(context: &SessionContext, statement: Statement, rows_max: usize) -> EngineResult<SendableRecordBatchStream> {
    let plan = context.state().statement_to_plan(statement).await?;
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    let is_description = matches!(plan, LogicalPlan::Explain(_) | LogicalPlan::Analyze(_) | LogicalPlan::DescribeTable(_));
    let rows = context.execute_logical_plan(plan).await?;
    // One row more than wanted tells whether any are missing; knowing the bound, a sort keeps only so many.
    let rows = if is_description { rows } else { rows.limit(0, Some(rows_max.saturating_add(1)))? };
    rows.execute_stream().await
}

async fn collect(mut stream: SendableRecordBatchStream, rows_max: usize) -> EngineResult<Answer> {
    let fields = stream.schema();
    let columns = fields.fields().iter().map(|field| Column { name: field.name().clone(), ty: field.data_type().to_string() });
    let mut answer = Answer { columns: columns.collect(), rows: Vec::new(), cut: None, milliseconds: 0 };
    let mut bytes = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch?;
        let cells = batch.columns().iter().map(|column| Cells::new(column.as_ref())).collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            if answer.rows.len() >= rows_max {
                answer.cut = Some(Cut::Rows);
                return Ok(answer);
            }
            let row = cells.iter().map(|cells| cells.cell(row)).collect::<Result<Vec<_>, _>>()?;
            bytes += row.iter().map(json_bytes).sum::<usize>();
            if bytes > ANSWER_BYTES_MAX {
                answer.cut = Some(Cut::Bytes);
                return Ok(answer);
            }
            answer.rows.push(row);
        }
    }
    Ok(answer)
}

/// The size of a cell in the answer.
fn json_bytes(cell: &serde_json::Value) -> usize {
    serde_json::to_string(cell).map_or(0, |text| text.len()) + CELL_BYTES
}

/// Whose fault it is, in one line.
fn refusal(error: &DataFusionError, job: &Job) -> Refusal {
    let root = error.find_root();
    let text = root.strip_backtrace();
    // The engine asks for a bug report where a function refuses its argument, such as an expression that is too large.
    let text = text.split("This issue was likely caused by a bug").next().unwrap_or_default().trim_end();
    // Where a function could not have one large piece, only its message says so.
    let is_memory = matches!(root, DataFusionError::ResourcesExhausted(_)) || text.contains("memory allocation failed");
    match root {
        _ if is_memory => {
            let megabytes = job.limits.memory_bytes_max >> 20;
            let message =
                format!("the query needs more memory than it may have ({megabytes} MiB); group or sort less, or add a LIMIT");
            Refusal::new(Why::Memory, message)
        }
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) | DataFusionError::ParquetError(_) => {
            Refusal::new(Why::Worker, format!("cannot read the record: {text}"))
        }
        _ => Refusal::new(Why::Statement, text),
    }
}
