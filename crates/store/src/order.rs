//! The head of a text as a number, so that sorting compares numbers and reads the texts only where those agree.

/// The first sixteen bytes, in the order of the texts. Names and addresses mostly differ within them.
pub(crate) type Head = (u64, u64);

pub(crate) fn head(text: &str) -> Head {
    let bytes = text.as_bytes();
    (part(bytes), bytes.get(8..).map_or(0, part))
}

fn part(bytes: &[u8]) -> u64 {
    match bytes.first_chunk::<8>() {
        Some(whole) => u64::from_be_bytes(*whole),
        None => {
            let mut padded = [0_u8; 8];
            padded.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            u64::from_be_bytes(padded)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_never_contradict_the_order_of_texts() {
        let texts =
            ["", "a", "a\u{0}", "aaaaaaaa", "aaaaaaaab", "aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaab", "b", "\u{e4}", "zz.example"];
        for one in texts {
            for other in texts {
                assert!(head(one).cmp(&head(other)) == one.cmp(other) || head(one) == head(other), "{one:?} {other:?}");
            }
        }
    }
}
