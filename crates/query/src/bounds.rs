//! Looks at a statement before it is planned: one query, that reads, of a size that a planner can take. It knows nothing
//! of tables or columns.

use std::ops::ControlFlow;

use datafusion::common::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{Expr, Statement as Sql, TableFactor, Visit, Visitor};

use crate::limits::{DEPTH_MAX, EXPRESSIONS_MAX, RELATIONS_MAX, TEXT_BYTES_MAX};
use crate::{Refusal, Why};

const WHAT_MAY_BE_ASKED: &str =
    "only SELECT (also WITH, VALUES and UNION), EXPLAIN, SHOW TABLES, SHOW COLUMNS and DESCRIBE may be asked";

/// The one statement of a text, if it is a query within the bounds.
pub(crate) fn parse(sql: &str) -> Result<Statement, Refusal> {
    if sql.len() > TEXT_BYTES_MAX {
        return Err(too_large(format!("the query has {} bytes, {TEXT_BYTES_MAX} are allowed", sql.len())));
    }
    let mut statements = DFParserBuilder::new(sql)
        .with_recursion_limit(DEPTH_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| not_parsed(&error))?;
    let statement = statements.pop_front().ok_or_else(|| wrong("the query is empty"))?;
    if !statements.is_empty() {
        return Err(wrong("one query at a time: what follows the `;` is another"));
    }
    check(&statement)?;
    Ok(statement)
}

fn check(statement: &Statement) -> Result<(), Refusal> {
    match statement {
        Statement::Statement(sql) => check_sql(sql),
        Statement::Explain(explained) => check(&explained.statement),
        _ => Err(wrong(WHAT_MAY_BE_ASKED)),
    }
}

fn check_sql(sql: &Sql) -> Result<(), Refusal> {
    let is_query = matches!(
        sql,
        Sql::Query(_) | Sql::Explain { .. } | Sql::ExplainTable { .. } | Sql::ShowTables { .. } | Sql::ShowColumns { .. }
    );
    if !is_query {
        return Err(wrong(WHAT_MAY_BE_ASKED));
    }
    let mut size = Size::default();
    match sql.visit(&mut size) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(refusal) => Err(*refusal),
    }
}

/// What a statement has been seen to hold.
#[derive(Default)]
struct Size {
    expressions: usize,
    relations: usize,
    /// Literals of `IN` lists that are still to be visited. They cost a planner little, and the text bounds them.
    free_literals: usize,
}

impl Visitor for Size {
    type Break = Box<Refusal>;

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<Self::Break> {
        match expression {
            Expr::Value(_) if self.free_literals > 0 => {
                self.free_literals -= 1;
                return ControlFlow::Continue(());
            }
            Expr::InList { list, .. } => {
                self.free_literals += list.iter().filter(|element| matches!(element, Expr::Value(_))).count();
            }
            _ => {}
        }
        self.expressions += 1;
        within(self.expressions, EXPRESSIONS_MAX, "expressions (the elements of an `IN (...)` list do not count)")
    }

    fn pre_visit_table_factor(&mut self, _: &TableFactor) -> ControlFlow<Self::Break> {
        self.relations += 1;
        within(self.relations, RELATIONS_MAX, "tables and subqueries")
    }
}

fn within(count: usize, most: usize, what: &str) -> ControlFlow<Box<Refusal>> {
    match count > most {
        true => ControlFlow::Break(Box::new(too_large(format!("the query has more than {most} {what}")))),
        false => ControlFlow::Continue(()),
    }
}

fn not_parsed(error: &DataFusionError) -> Refusal {
    let text = error.strip_backtrace();
    match text.contains("RecursionLimitExceeded") || text.contains("recursion limit") {
        true => too_large(format!("the query nests deeper than {DEPTH_MAX} levels")),
        false => wrong(text),
    }
}

fn wrong(message: impl Into<String>) -> Refusal {
    Refusal::new(Why::Statement, message)
}

fn too_large(message: impl Into<String>) -> Refusal {
    Refusal::new(Why::TooLarge, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(sql: &str) -> Option<Why> {
        parse(sql).err().map(|refusal| refusal.why)
    }

    #[test]
    fn queries_are_taken_and_whatever_changes_or_writes_is_not() {
        for sql in [
            "SELECT 1",
            "select host, count(*) from events group by host order by 2 desc limit 3;",
            "WITH x AS (SELECT 1 AS a) SELECT a FROM x",
            "VALUES (1), (2)",
            "SELECT 1 UNION ALL SELECT 2",
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE SELECT 1",
            "SHOW TABLES",
            "SHOW COLUMNS FROM events",
            "DESCRIBE events",
        ] {
            assert_eq!(why(sql), None, "{sql}: {:?}", parse(sql).err());
        }
        for sql in [
            "",
            ";",
            "SELEC 1",
            "SELECT 1; SELECT 2",
            "SET datafusion.execution.parquet.max_in_list_size = 20000",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "CREATE TABLE t AS SELECT 1",
            "CREATE VIEW v AS SELECT 1",
            "DROP TABLE events",
            "INSERT INTO events VALUES (1)",
            "DELETE FROM events",
            "UPDATE events SET host = 'x'",
            "COPY events TO '/tmp/x.parquet'",
            "EXPLAIN DELETE FROM events",
            "EXPLAIN COPY events TO '/tmp/x.parquet'",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "BEGIN",
            "TRUNCATE TABLE events",
        ] {
            assert_eq!(why(sql), Some(Why::Statement), "{sql}");
        }
    }

    #[test]
    fn a_statement_may_not_be_long_deep_or_wide() {
        let long = format!("SELECT '{}'", "x".repeat(TEXT_BYTES_MAX));
        let deep = format!("SELECT {}1{}", "(".repeat(2_000), ")".repeat(2_000));
        let many = format!("SELECT * FROM events WHERE {}", vec!["host = 'a'"; EXPRESSIONS_MAX].join(" OR "));
        let joins = format!("SELECT 1 FROM {}", vec!["events"; RELATIONS_MAX + 1].join(", "));
        let nested = format!("{}SELECT 1{}", "SELECT * FROM (".repeat(200), ")".repeat(200));
        for sql in [long, deep, many, joins, nested] {
            let refused = parse(&sql).expect_err("refused");
            assert_eq!(refused.why, Why::TooLarge, "{}: {}", &sql[..40], refused.message);
        }
    }

    #[test]
    fn elements_of_a_list_do_not_count_and_terms_beside_it_do() {
        let list = (0..4_000).map(|number| format!("'h{number}.test'")).collect::<Vec<_>>().join(",");
        assert_eq!(why(&format!("SELECT * FROM events WHERE host IN ({list})")), None);
        let terms = vec!["host = 'a'"; EXPRESSIONS_MAX].join(" OR ");
        assert_eq!(why(&format!("SELECT * FROM events WHERE host IN ({list}) OR {terms}")), Some(Why::TooLarge));
    }
}
