//! What a policy says of users, groups and locations: they name each other rightly, and no proof stands for two people.

use std::collections::BTreeSet;

use super::Compiler;
use crate::document::User;
use crate::schedule::parse_moment;
use crate::{Place, Problem};

/// Digits of a SHA-256 in hexadecimal.
const SHA256_DIGITS: usize = 64;

impl Compiler<'_> {
    /// Users, groups and locations must name each other rightly, and no proof may stand for two people.
    pub(super) fn check_people(&mut self) {
        let groups: BTreeSet<&str> = self.document.groups.iter().map(|group| &*group.name).collect();
        let emails: BTreeSet<&str> = self.document.users.iter().map(|user| &*user.email).collect();
        self.check_unique("group", "name", self.document.groups.iter().map(|group| (&*group.name, group.file.as_deref())));
        self.check_unique("user", "email", self.document.users.iter().map(|user| (&*user.email, user.file.as_deref())));
        self.check_unique("location", "name", self.document.locations.iter().map(|at| (&*at.name, at.file.as_deref())));
        let tokens = self.document.locations.iter().filter_map(|at| Some((at.doh_token.as_deref()?, at.file.as_deref())));
        self.check_unique("location", "doh_token", tokens);
        for user in &self.document.users {
            if user.password.as_ref().is_some_and(|hash| !hash.starts_with("$argon2id$")) {
                let message = format!("the password of `{}` is not hashed", user.email);
                let place = Place::of(user.file.as_deref(), format!("user \"{}\"", user.email), "password");
                self.problems.push(Problem::new(message).expected("what `sekisho password` prints").placed(place));
            }
        }
        let tokens = self.document.users.iter().flat_map(|user| user.tokens.iter().map(move |token| (&*token.sha256, user)));
        self.check_proofs("tokens", tokens.collect());
        let certificates = self.document.users.iter().flat_map(|user| user.certificates.iter().map(move |hash| (&**hash, user)));
        self.check_proofs("certificates", certificates.collect());
        for user in &self.document.users {
            let endings = user.tokens.iter().filter_map(|token| token.expires.as_deref());
            for problem in endings.filter_map(|text| parse_moment(text).err()) {
                let place = Place::of(user.file.as_deref(), format!("user \"{}\"", user.email), "tokens.expires");
                self.problems.push(problem.placed(place));
            }
        }
        self.check_endpoints();
        let networks: Vec<(String, Option<&str>)> = self
            .document
            .locations
            .iter()
            .flat_map(|at| at.networks.iter().map(|network| (network.trunc().to_string(), at.file.as_deref())))
            .collect();
        self.check_unique("location", "networks", networks.iter().map(|(network, file)| (&**network, *file)));
        for user in &self.document.users {
            for group in user.groups.iter().filter(|group| !groups.contains(group.as_str())) {
                let place = Place::of(user.file.as_deref(), format!("user \"{}\"", user.email), "groups");
                self.problems.push(
                    Problem::new(format!("there is no group `{group}`")).nearest(group, groups.iter().copied()).placed(place),
                );
            }
        }
        for location in &self.document.locations {
            if let Some(user) = location.user.as_deref().filter(|user| !emails.contains(user)) {
                let place = Place::of(location.file.as_deref(), format!("location \"{}\"", location.name), "user");
                self.problems
                    .push(Problem::new(format!("there is no user `{user}`")).nearest(user, emails.iter().copied()).placed(place));
            }
        }
    }

    /// Every proof is a digest, and no two people have the same.
    fn check_proofs(&mut self, part: &'static str, proofs: Vec<(&str, &User)>) {
        for (hash, user) in &proofs {
            if hash.len() != SHA256_DIGITS || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                let place = Place::of(user.file.as_deref(), format!("user \"{}\"", user.email), part);
                self.problems.push(Problem::new("not a hash").expected("SHA-256 in hexadecimal").placed(place));
            }
        }
        self.check_unique("user", part, proofs.into_iter().map(|(hash, user)| (hash, user.file.as_deref())));
    }

    /// A token can be asked for only where a client can show one.
    fn check_endpoints(&mut self) {
        for location in &self.document.locations {
            let asking = location.endpoints.iter().filter(|(endpoint, says)| says.require_token && !endpoint.carries_token());
            for (endpoint, _) in asking {
                let place = Place::of(location.file.as_deref(), format!("location \"{}\"", location.name), "endpoints");
                let message = format!("a client of `{}` cannot show a token", endpoint.as_str());
                self.problems.push(Problem::new(message).expected("`require_token` for `doh` or `dot`").placed(place));
            }
        }
    }

    fn check_unique<'n>(&mut self, what: &str, part: &'static str, names: impl Iterator<Item = (&'n str, Option<&'n str>)>) {
        let mut seen = BTreeSet::new();
        for (name, file) in names {
            let place = || Place::of(file, format!("{what} \"{name}\""), part);
            if name.is_empty() {
                self.problems.push(Problem::new("is empty").placed(place()));
            } else if !seen.insert(name) {
                self.problems.push(Problem::new("stands twice").placed(place()));
            }
        }
    }
}
