//! The category table: numbers and names as Cloudflare Gateway uses them, so that rules can be brought over (CT-01 to
//! CT-05). Numbers without a published name (193, 194) are left out: a list may still carry them, they only have no name.

/// Which field a category appears in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CategoryKind {
    Content(i64),
    Security(i64),
}

/// One category and the one above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Category {
    pub id: i64,
    pub name: &'static str,
    /// None for the categories that hold others.
    pub parent: Option<i64>,
}

/// Holds the threats of CT-01.
pub const SECURITY_THREATS: i64 = 21;
/// Holds what is only new or parked (CT-02): to be allowed or isolated rather than blocked.
pub const SECURITY_RISKS: i64 = 32;
/// Holds what no rule can allow (CT-04).
pub const ALWAYS_BLOCKED: i64 = 31;

pub const COMMAND_AND_CONTROL: i64 = 80;
pub const CRYPTOMINING: i64 = 83;
pub const MALWARE: i64 = 117;
pub const PHISHING: i64 = 131;
pub const SPYWARE: i64 = 153;
pub const SCAM: i64 = 191;
pub const ADVERTISEMENTS: i64 = 66;

/// The set that the reference recommends to block (CT-03).
pub const RECOMMENDED_BLOCK: &[i64] = &[68, 178, 80, 83, 176, 175, 117, 131, 134, 151, 153];

/// Every category: one that holds others comes before those it holds.
pub const CATEGORIES: &[Category] = &[
    Category::top(1, "Ads"),
    Category::below(1, 66, "Advertisements"),
    Category::top(2, "Adult Themes"),
    Category::below(2, 67, "Adult Themes"),
    Category::below(2, 125, "Nudity"),
    Category::below(2, 133, "Pornography"),
    Category::top(3, "Business & Economy"),
    Category::below(3, 75, "Business"),
    Category::below(3, 89, "Economy & Finance"),
    Category::below(3, 183, "Cryptocurrency"),
    Category::below(3, 185, "Personal Finance"),
    Category::below(3, 186, "Brokerage & Investing"),
    Category::top(6, "Education"),
    Category::below(6, 90, "Education"),
    Category::below(6, 91, "Educational Institutions"),
    Category::below(6, 144, "Science"),
    Category::below(6, 150, "Space & Astronomy"),
    Category::below(6, 189, "Reference"),
    Category::top(7, "Entertainment"),
    Category::below(7, 70, "Arts"),
    Category::below(7, 74, "Audio Streaming"),
    Category::below(7, 76, "Cartoons & Anime"),
    Category::below(7, 79, "Comic Books"),
    Category::below(7, 92, "Entertainment"),
    Category::below(7, 96, "Fine Art"),
    Category::below(7, 100, "Gaming"),
    Category::below(7, 106, "Home Video/DVD"),
    Category::below(7, 107, "Humor"),
    Category::below(7, 116, "Magazines"),
    Category::below(7, 120, "Movies"),
    Category::below(7, 121, "Music"),
    Category::below(7, 122, "News & Media"),
    Category::below(7, 127, "Paranormal"),
    Category::below(7, 139, "Radio"),
    Category::below(7, 156, "Television"),
    Category::below(7, 164, "Video Streaming"),
    Category::top(8, "Gambling"),
    Category::below(8, 99, "Gambling"),
    Category::top(9, "Government & Politics"),
    Category::below(9, 101, "Government/Legal"),
    Category::below(9, 137, "Politics, Advocacy, and Government-Related"),
    Category::below(9, 190, "Charity and Non-profit"),
    Category::top(10, "Health"),
    Category::below(10, 103, "Health & Fitness"),
    Category::below(10, 146, "Sex Education"),
    Category::top(12, "Internet Communication"),
    Category::below(12, 77, "Chat"),
    Category::below(12, 98, "Forums"),
    Category::below(12, 108, "Information Security"),
    Category::below(12, 110, "Instant Messengers"),
    Category::below(12, 111, "Internet Phone & VOIP"),
    Category::below(12, 118, "Messaging"),
    Category::below(12, 126, "P2P"),
    Category::below(12, 129, "Personal Blogs"),
    Category::below(12, 168, "Webmail"),
    Category::below(12, 172, "Photo Sharing"),
    Category::top(13, "Job Search & Careers"),
    Category::below(13, 113, "Job Search & Careers"),
    Category::top(15, "Miscellaneous"),
    Category::below(15, 115, "Login Screens"),
    Category::below(15, 119, "Miscellaneous"),
    Category::below(15, 124, "No Content"),
    Category::below(15, 141, "URL Alias/Redirect"),
    Category::below(15, 161, "Unreachable"),
    Category::top(17, "Questionable Content"),
    Category::below(17, 85, "Deceptive Ads"),
    Category::below(17, 87, "Drugs"),
    Category::below(17, 102, "Hacking"),
    Category::below(17, 135, "Profanity"),
    Category::below(17, 138, "Questionable Activities"),
    Category::below(17, 157, "Militancy, Hate & Extremism"),
    Category::below(17, 162, "Unreliable Information"),
    Category::top(18, "Real Estate"),
    Category::below(18, 140, "Real Estate"),
    Category::top(19, "Religion"),
    Category::below(19, 142, "Religion & Spirituality"),
    Category::top(20, "Safe for Kids"),
    Category::below(20, 143, "Safe for Kids"),
    Category::top(21, "Security threats"),
    Category::below(21, 68, "Anonymizer"),
    Category::below(21, 80, "Command and Control & Botnet"),
    Category::below(21, 83, "Cryptomining"),
    Category::below(21, 117, "Malware"),
    Category::below(21, 131, "Phishing"),
    Category::below(21, 134, "Private IP Address"),
    Category::below(21, 151, "Spam"),
    Category::below(21, 153, "Spyware"),
    Category::below(21, 175, "DNS Tunneling"),
    Category::below(21, 176, "Domain Generation Algorithm"),
    Category::below(21, 178, "Brand Embedding"),
    Category::below(21, 187, "Compromised Domain"),
    Category::below(21, 188, "Potentially Unwanted Software"),
    Category::below(21, 191, "Scam"),
    Category::top(22, "Shopping & Auctions"),
    Category::below(22, 73, "Auctions & Marketplaces"),
    Category::below(22, 82, "Coupons"),
    Category::below(22, 88, "Ecommerce"),
    Category::below(22, 148, "Shopping"),
    Category::top(24, "Society & Lifestyle"),
    Category::below(24, 71, "Arts & Crafts"),
    Category::below(24, 72, "Astrology"),
    Category::below(24, 78, "Clothing"),
    Category::below(24, 84, "Dating & Relationships"),
    Category::below(24, 86, "Digital Postcards"),
    Category::below(24, 93, "Parenting"),
    Category::below(24, 94, "Fashion"),
    Category::below(24, 97, "Food & Drink"),
    Category::below(24, 104, "Hobbies & Interests"),
    Category::below(24, 105, "Home & Garden"),
    Category::below(24, 114, "Lifestyle"),
    Category::below(24, 130, "Pets"),
    Category::below(24, 132, "Photography"),
    Category::below(24, 136, "Professional Networking"),
    Category::below(24, 147, "Sexuality"),
    Category::below(24, 149, "Social Networks"),
    Category::below(24, 154, "Swimsuits"),
    Category::below(24, 158, "Tobacco"),
    Category::below(24, 173, "Body Art"),
    Category::below(24, 174, "Lingerie & Bikini"),
    Category::below(24, 181, "Alcohol"),
    Category::top(25, "Sports"),
    Category::below(25, 152, "Sports"),
    Category::top(26, "Technology"),
    Category::below(26, 69, "APIs"),
    Category::below(26, 81, "Content Servers"),
    Category::below(26, 95, "File Sharing"),
    Category::below(26, 109, "Information Technology"),
    Category::below(26, 123, "News, Portal & Search"),
    Category::below(26, 145, "Search Engines"),
    Category::below(26, 155, "Technology"),
    Category::below(26, 159, "Translator"),
    Category::below(26, 184, "Artificial Intelligence"),
    Category::below(26, 192, "Remote Access"),
    Category::top(27, "Travel"),
    Category::below(27, 160, "Travel"),
    Category::top(28, "Vehicles"),
    Category::below(28, 163, "Vehicles"),
    Category::top(29, "Violence"),
    Category::below(29, 165, "Violence"),
    Category::below(29, 166, "Weapons"),
    Category::top(30, "Weather"),
    Category::below(30, 167, "Weather"),
    Category::top(31, "Always blocked"),
    Category::below(31, 170, "Child Abuse"),
    Category::top(32, "Security Risks"),
    Category::below(32, 128, "Parked & For Sale Domains"),
    Category::below(32, 169, "New Domains"),
    Category::below(32, 177, "Newly Seen Domains"),
    Category::top(34, "CIPA"),
    Category::below(34, 182, "CIPA Filter"),
];

impl CategoryKind {
    /// Where a number belongs: what is below the threats and the risks is a security category, the rest is content.
    pub fn of(id: i64) -> CategoryKind {
        let group = category(id).and_then(|category| category.parent).unwrap_or(id);
        match group {
            SECURITY_THREATS | SECURITY_RISKS => CategoryKind::Security(id),
            _ => CategoryKind::Content(id),
        }
    }

    pub const fn id(self) -> i64 {
        match self {
            CategoryKind::Content(id) | CategoryKind::Security(id) => id,
        }
    }
}

impl Category {
    const fn top(id: i64, name: &'static str) -> Category {
        Category { id, name, parent: None }
    }

    const fn below(parent: i64, id: i64, name: &'static str) -> Category {
        Category { id, name, parent: Some(parent) }
    }

    pub fn kind(&self) -> CategoryKind {
        CategoryKind::of(self.id)
    }

    /// The categories that this one holds.
    pub fn children(&self) -> impl Iterator<Item = &'static Category> {
        let id = self.id;
        CATEGORIES.iter().filter(move |category| category.parent == Some(id))
    }
}

/// A category by its number.
pub fn category(id: i64) -> Option<&'static Category> {
    CATEGORIES.iter().find(|category| category.id == id)
}

/// A category by its name, whatever the case. Where a category holds one of its own name (`Gambling`), the inner one is
/// meant: lists carry those.
pub fn category_named(name: &str) -> Option<&'static Category> {
    let mut named = CATEGORIES.iter().filter(|category| category.name.eq_ignore_ascii_case(name)).collect::<Vec<_>>();
    named.sort_by_key(|category| category.parent.is_none());
    named.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_category_has_no_name_and_is_content() {
        assert_eq!(category_named("no such thing"), None);
        assert_eq!(category(9999), None);
        assert_eq!(CategoryKind::of(9999), CategoryKind::Content(9999));
    }

    #[test]
    fn numbers_are_unique_and_parents_are_there() {
        for (place, row) in CATEGORIES.iter().enumerate() {
            assert!(CATEGORIES[place + 1..].iter().all(|other| other.id != row.id), "{row:?}");
            assert!(row.parent.is_none_or(|parent| category(parent).is_some_and(|parent| parent.parent.is_none())), "{row:?}");
        }
    }

    /// CT-01, CT-02, CT-03, CT-04.
    #[test]
    fn threats_and_risks_are_security_and_the_rest_is_content() {
        for id in RECOMMENDED_BLOCK {
            assert_eq!(CategoryKind::of(*id), CategoryKind::Security(*id), "{id}");
        }
        assert_eq!(category(SECURITY_THREATS).map(|threats| threats.children().count()), Some(14));
        assert_eq!(category_named("malware").map(Category::kind), Some(CategoryKind::Security(MALWARE)));
        assert_eq!(category_named("new domains").map(Category::kind), Some(CategoryKind::Security(169)));
        assert_eq!(category_named("Gambling").map(Category::kind), Some(CategoryKind::Content(99)));
        assert_eq!(category(170).and_then(|category| category.parent), Some(ALWAYS_BLOCKED));
    }
}
