//! Settings by which a rule's expression means more, or less, than it says: categories of an answer's addresses (GW-033),
//! those of the queried name alone (GW-034), and the spellings of a mailbox (ID-05).

use std::sync::Arc;

use model::FieldId;
use model::identity::mailbox;

use crate::expression::{Comparison, Element, Operand, Test};
use crate::list::{Kind, Table};

/// The field of the answer's addresses that is matched beside this one.
pub(super) fn of_addresses(field: FieldId, categories: bool, feeds: bool) -> Option<FieldId> {
    match field {
        FieldId::DnsContentCategory if categories => Some(FieldId::DnsAddressContentCategory),
        FieldId::DnsSecurityCategory if categories => Some(FieldId::DnsAddressSecurityCategory),
        FieldId::DnsIndicatorFeed if feeds => Some(FieldId::DnsAddressIndicatorFeed),
        _ => None,
    }
}

pub(super) fn name_alone(field: &mut FieldId) {
    *field = match *field {
        FieldId::DnsContentCategory => FieldId::DnsNameContentCategory,
        FieldId::DnsSecurityCategory => FieldId::DnsNameSecurityCategory,
        other => other,
    };
}

/// Equality with a user's address becomes equality of mailboxes. Other tests, such as a pattern, are of the address as it is
/// written.
pub(super) fn by_mailbox(comparison: &mut Comparison) {
    let Comparison { operand, test, .. } = comparison;
    let is_email =
        |operand: &Operand| matches!(operand, Operand::Field { field: FieldId::UserEmail, element: Element::Whole, .. });
    let is_address = match &*operand {
        Operand::Lower(inner) => is_email(inner),
        other => is_email(other),
    };
    if !is_address {
        return;
    }
    match test {
        Test::Text(_, text) => *text = mailbox(text).into(),
        Test::InTexts(texts) => {
            let mut mailboxes: Vec<Arc<str>> = texts.iter().map(|text| mailbox(text).into()).collect();
            mailboxes.sort();
            *texts = mailboxes.into();
        }
        Test::InList(_, table) if matches!(table.kind(), Kind::Email | Kind::Text) => {
            let mailboxes: Vec<String> = table.texts().map(mailbox).collect();
            *table = Arc::new(Table::build(table.kind(), mailboxes.iter().map(String::as_str)).0);
        }
        _ => return,
    }
    *operand = Operand::Field { field: FieldId::UserMailbox, key: None, element: Element::Whole };
}
