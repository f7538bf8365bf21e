//! Why a transaction was decided as it was: every rule, its value in three, and what it waits for (CX-09).

use model::{Facts, FieldId, Gate, Question, Station, Timestamp};
use serde::Serialize;

use crate::Policy;
use crate::evaluate::{Truth, evaluate};
use crate::snapshot::default_action;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub gate: Gate,
    pub station: Station,
    pub revision: i64,
    pub questions: Vec<QuestionExplanation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuestionExplanation {
    pub question: Question,
    /// The action; none while the question is open.
    pub action: Option<&'static str>,
    /// The rule that decided or that the question waits for; none where the default answered.
    pub rule: Option<String>,
    pub rules: Vec<RuleExplanation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleExplanation {
    pub id: String,
    pub name: String,
    pub action: &'static str,
    /// As written; empty where the rule always matches.
    pub expression: String,
    pub canonical: String,
    /// `true`, `false`, `unknown`, or `inactive` outside its hours or after its end.
    pub value: &'static str,
    /// Fields that are not known yet, where the value is unknown.
    pub waits_for: Vec<&'static str>,
    /// The station by which the rule can surely decide.
    pub decides_at: Station,
    /// Whether the rule was reached: no rule above had decided or was waiting.
    pub is_read: bool,
}

impl Policy {
    /// Every question of the facts' gate, with every rule.
    pub fn explain(&self, facts: &Facts, now: Timestamp) -> Explanation {
        let questions = facts.gate().questions().iter().map(|question| self.explain_question(facts, *question, now));
        Explanation { gate: facts.gate(), station: facts.station(), revision: self.revision(), questions: questions.collect() }
    }

    fn explain_question(&self, facts: &Facts, question: Question, now: Timestamp) -> QuestionExplanation {
        let mut explanation =
            QuestionExplanation { question, action: Some(default_action(question).as_str()), rule: None, rules: Vec::new() };
        let mut is_read = true;
        for rule in self.ids(facts.gate(), question).filter_map(|id| self.compiled(id)) {
            let truth = evaluate(&rule.expression, facts);
            let is_in_force = rule.validity.is_in_force(now);
            let value = match truth {
                _ if !is_in_force => "inactive",
                Truth::True => "true",
                Truth::False => "false",
                Truth::Unknown(_) => "unknown",
            };
            explanation.rules.push(RuleExplanation {
                id: rule.name.id.to_string(),
                name: rule.name.name.to_string(),
                action: rule.action.as_str(),
                expression: rule.source.to_string(),
                canonical: rule.canonical.to_string(),
                value,
                waits_for: if value == "unknown" { unknown_fields(&rule.expression, facts) } else { Vec::new() },
                decides_at: rule.latest,
                is_read,
            });
            if is_read && is_in_force && truth != Truth::False {
                explanation.rule = Some(rule.name.name.to_string());
                explanation.action = (truth == Truth::True).then_some(rule.action.as_str());
                is_read = false;
            }
        }
        explanation
    }
}

fn unknown_fields(expression: &crate::expression::Expression, facts: &Facts) -> Vec<&'static str> {
    let mut fields: Vec<FieldId> = Vec::new();
    expression.fields(&mut |field| {
        if facts.known(field) == model::Known::NotYet && !fields.contains(&field) {
            fields.push(field);
        }
    });
    fields.into_iter().map(|field| field.row().name).collect()
}
