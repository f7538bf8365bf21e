//! The tables: sealed files and unsealed batches of one snapshot, as the engine scans them. Files are left out by the times
//! and classes that the manifest has of them; row groups and pages by the engine, which reads their statistics and filters.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DataFusionError, Result, ScalarValue, Statistics, project_schema};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use store::{Snapshot, SnapshotFile, Table};

/// A table of one snapshot.
#[derive(Debug)]
pub(crate) struct LakeTable {
    schema: SchemaRef,
    files: Vec<PartitionedFile>,
    unsealed: Vec<RecordBatch>,
}

impl LakeTable {
    pub(crate) fn new(snapshot: &Snapshot, table: Table) -> Result<LakeTable> {
        let schema = store::table_schema(table);
        let of_table = snapshot.files.iter().filter(|file| file.table == table);
        let files = of_table.map(|file| described(file, &schema)).collect::<Result<Vec<_>>>()?;
        let unsealed = match table {
            Table::Events => &snapshot.unsealed_events,
            Table::Sightings => &snapshot.unsealed_sightings,
        };
        Ok(LakeTable { schema, files, unsealed: unsealed.clone() })
    }

    fn sealed(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let store_url = ObjectStoreUrl::local_filesystem();
        let runtime = state.runtime_env();
        let reader = CachedParquetFileReaderFactory::new(
            runtime.object_store(&store_url)?,
            runtime.cache_manager.get_file_metadata_cache(),
        );
        let options = TableParquetOptions { global: state.config().options().execution.parquet.clone(), ..Default::default() };
        let source = ParquetSource::new(TableSchema::from(Arc::clone(&self.schema)))
            .with_table_parquet_options(options)
            .with_parquet_file_reader_factory(Arc::new(reader));
        let scan = FileScanConfigBuilder::new(store_url, Arc::new(source))
            .with_file_groups(self.groups(state.config().target_partitions()))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }

    /// The files, spread over the threads by size.
    fn groups(&self, count: usize) -> Vec<FileGroup> {
        let mut groups = vec![(0, Vec::new()); count.clamp(1, self.files.len().max(1))];
        let mut files = self.files.iter().collect::<Vec<_>>();
        files.sort_by_key(|file| std::cmp::Reverse(file.object_meta.size));
        for file in files {
            if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
                *bytes += file.object_meta.size;
                group.push(file.clone());
            }
        }
        groups.into_iter().map(|(_, group)| FileGroup::new(group)).collect()
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// The engine hands filters down to the files itself and checks what they return.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projected = project_schema(&self.schema, projection)?;
        let mut parts = Vec::new();
        if !self.files.is_empty() {
            // A limit counts rows that pass the filters, which are checked above the scan.
            parts.push(self.sealed(state, projection, limit.filter(|_| filters.is_empty()))?);
        }
        if !self.unsealed.is_empty() {
            let batches = self.unsealed.iter().map(|batch| store::project(batch, &projected)).collect::<store::Result<Vec<_>>>();
            let batches = batches.map_err(|error| DataFusionError::External(Box::new(error)))?;
            parts.push(MemorySourceConfig::try_new_exec(&[batches], projected.clone(), None)?);
        }
        if parts.is_empty() {
            return Ok(Arc::new(EmptyExec::new(projected)));
        }
        UnionExec::try_new(parts)
    }
}

/// A file with what the manifest knows of its contents.
fn described(file: &SnapshotFile, schema: &SchemaRef) -> Result<PartitionedFile> {
    let path = datafusion::object_store::path::Path::from_absolute_path(&file.path)?;
    let mut statistics = Statistics::new_unknown(schema);
    statistics.num_rows = Precision::Exact(usize::try_from(file.rows).unwrap_or_default());
    if file.table == Table::Events {
        for (field, known) in schema.fields().iter().zip(&mut statistics.column_statistics) {
            match field.name().as_str() {
                "time" => *known = between(time(file.times.0), time(file.times.1)),
                "class_uid" => {
                    let class = ScalarValue::Int32(i32::try_from(file.class_uid).ok());
                    *known = between(class.clone(), class);
                }
                _ => {}
            }
        }
    }
    let mut partitioned = PartitionedFile::new(String::new(), file.bytes).with_statistics(Arc::new(statistics));
    partitioned.object_meta.location = path;
    Ok(partitioned)
}

fn time(at: model::Timestamp) -> ScalarValue {
    ScalarValue::TimestampMicrosecond(Some(at.0), Some("UTC".into()))
}

fn between(min: ScalarValue, max: ScalarValue) -> ColumnStatistics {
    ColumnStatistics {
        null_count: Precision::Exact(0),
        min_value: Precision::Exact(min),
        max_value: Precision::Exact(max),
        ..ColumnStatistics::new_unknown()
    }
}
