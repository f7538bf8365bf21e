//! YARA rules behind one small trait, so that the engine can be exchanged (docs/decisions/0002-yara-engine.md). The engine
//! is boreal with the modules that published rules import (`pe`, `elf`, `hash`, `math`); Authenticode is left out, so rules
//! on signers never match.

use crate::Error;
use crate::report::Unscannable;
use std::time::Duration;

/// Rules as one text of any size are compiled before the sandbox closes; matching needs nothing but the bytes.
pub(crate) trait Rules: Send + Sync {
    /// The first rule that matches.
    fn find(&self, bytes: &[u8], time_left: Duration) -> Result<Option<String>, Unscannable>;
    fn count(&self) -> usize;
}

pub(crate) struct NoRules;

impl Rules for NoRules {
    fn find(&self, _: &[u8], _: Duration) -> Result<Option<String>, Unscannable> {
        Ok(None)
    }

    fn count(&self) -> usize {
        0
    }
}

/// Rule texts, compiled together.
#[derive(Default)]
pub(crate) struct Sources {
    texts: Vec<(String, String)>,
}

impl Sources {
    pub(crate) fn add(&mut self, path: &str, text: &str) -> Result<(), Error> {
        self.texts.push((path.to_owned(), text.to_owned()));
        Ok(())
    }

    pub(crate) fn compile(self) -> Result<Box<dyn Rules>, Error> {
        if self.texts.is_empty() {
            return Ok(Box::new(NoRules));
        }
        let mut compiler = boreal::Compiler::new();
        compiler.set_params(boreal::compiler::CompilerParams::default().disable_includes(true));
        // External variables that published rule sets expect; nothing is known about the file's place here.
        for name in ["filename", "filepath", "extension", "filetype", "owner"] {
            compiler.define_symbol(name, "");
        }
        for (path, text) in &self.texts {
            compiler.add_rules_str_in_namespace(text, path).map_err(|error| Error::Signature {
                path: path.clone(),
                line: 0,
                detail: error.to_string(),
            })?;
        }
        Ok(Box::new(Boreal { scanner: compiler.finalize() }))
    }
}

struct Boreal {
    scanner: boreal::Scanner,
}

impl Rules for Boreal {
    fn find(&self, bytes: &[u8], time_left: Duration) -> Result<Option<String>, Unscannable> {
        let mut scanner = self.scanner.clone();
        let params = scanner.scan_params().clone().timeout_duration(Some(time_left)).compute_full_matches(false);
        scanner.set_scan_params(params);
        let name = |result: &boreal::scanner::ScanResult<'_>| result.rules.first().map(|rule| rule.name.to_owned());
        match scanner.scan_mem(bytes) {
            Ok(result) => Ok(name(&result)),
            Err((_, partial)) => name(&partial).map_or(Err(Unscannable::TimeLimit), |rule| Ok(Some(rule))),
        }
    }

    fn count(&self) -> usize {
        self.scanner.rules().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Result<Box<dyn Rules>, Error> {
        let mut sources = Sources::default();
        sources.add("a.yar", text)?;
        sources.compile()
    }

    #[test]
    fn a_rule_matches_by_name() {
        let rules = rules("rule Known { strings: $a = \"needle\" nocase condition: $a and filename == \"\" }").unwrap();
        assert_eq!(rules.count(), 1);
        assert_eq!(rules.find(b"a NEEDLE here", Duration::from_secs(1)), Ok(Some("Known".to_owned())));
        assert_eq!(rules.find(b"hay", Duration::from_secs(1)), Ok(None));
    }

    #[test]
    fn bad_rules_and_includes_are_refused() {
        assert!(rules("rule Broken {").is_err());
        assert!(rules("include \"/etc/passwd\"").is_err());
    }
}
