//! Which names of the mesh a name that is asked for may be short for.

/// A name that may have been meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// In full, in lower case, without a dot at the end.
    pub(super) name: String,
    /// What was asked for without the search domain, if that was taken off.
    pub(super) stripped: Option<String>,
}

/// The names that `asked` may mean to a pod of a namespace, the likeliest first: itself, what Kubernetes' resolvers would make
/// of it, and the same without each of the search domains that Kubernetes gives to pods. A resolver in the pod appends those
/// before it asks for the name itself.
pub(super) fn candidates(asked: &str, namespace: &str, domain: &str) -> Vec<Candidate> {
    let services = format!("svc.{domain}");
    let own = format!("{namespace}.{services}");
    let mut found: Vec<Candidate> = Vec::new();
    let mut add = |name: String, stripped: Option<&str>| {
        if found.iter().all(|known| known.name != name) {
            found.push(Candidate { name, stripped: stripped.map(str::to_owned) });
        }
    };
    add(asked.to_owned(), None);
    in_full(asked, &own, &services, domain).for_each(|name| add(name, None));
    for search in [own.as_str(), &services, domain] {
        let without = asked.strip_suffix(search).and_then(|rest| rest.strip_suffix('.'));
        let Some(stripped) = without.filter(|stripped| !stripped.is_empty()) else { continue };
        add(stripped.to_owned(), Some(stripped));
        in_full(stripped, &own, &services, domain).for_each(|name| add(name, Some(stripped)));
    }
    found
}

/// The names in full of a service, or of a pod of a service, that are short for a name.
fn in_full(
    name: &str,
    own: &str,
    services: &str,
    domain: &str,
) -> impl Iterator<Item = String> + use<> {
    let labels = name.split('.').count();
    let ends_with_svc = name.ends_with(".svc");
    let suffixes: [Option<&str>; 2] = match labels {
        1 => [Some(own), None],
        2 => [Some(services), Some(own)],
        3 => [ends_with_svc.then_some(domain), Some(services)],
        4 => [ends_with_svc.then_some(domain), None],
        _ => [None, None],
    };
    let full = suffixes.map(|suffix| suffix.map(|suffix| format!("{name}.{suffix}")));
    full.into_iter().flatten()
}

/// Calls `found` with a name and then with each wildcard that it is of, the narrowest first, until it returns something.
pub(super) fn with_wildcards<T>(name: &str, mut found: impl FnMut(&str) -> Option<T>) -> Option<T> {
    if let Some(found) = found(name) {
        return Some(found);
    }
    let mut wildcard = String::with_capacity(name.len() + 1);
    let mut rest = name;
    while let Some((_, parent)) = rest.split_once('.') {
        wildcard.clear();
        wildcard.push_str("*.");
        wildcard.push_str(parent);
        if let Some(found) = found(&wildcard) {
            return Some(found);
        }
        rest = parent;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: &str, expected: &[(&str, Option<&str>)]) {
        let found = candidates(asked, "shop", "cluster.local");
        let found: Vec<_> =
            found.iter().map(|one| (one.name.as_str(), one.stripped.as_deref())).collect();
        assert_eq!(found, expected, "{asked}");
    }

    #[test]
    fn a_short_name_is_that_of_the_own_namespace() {
        check("web", &[("web", None), ("web.shop.svc.cluster.local", None)]);
    }

    #[test]
    fn a_name_of_two_parts_is_of_a_namespace_or_of_a_pod() {
        let full = [
            ("web.other", None),
            ("web.other.svc.cluster.local", None),
            ("web.other.shop.svc.cluster.local", None),
        ];
        check("web.other", &full);
    }

    #[test]
    fn svc_is_followed_by_the_domain() {
        let full = [
            ("web.other.svc", None),
            ("web.other.svc.cluster.local", None),
            ("web.other.svc.svc.cluster.local", None),
        ];
        check("web.other.svc", &full);
        check("a.b.c.svc", &[("a.b.c.svc", None), ("a.b.c.svc.cluster.local", None)]);
        check("a.b.c.d", &[("a.b.c.d", None)]);
    }

    #[test]
    fn search_domains_are_taken_off() {
        let full = [
            ("www.example.com.shop.svc.cluster.local", None),
            ("www.example.com", Some("www.example.com")),
            ("www.example.com.svc.cluster.local", Some("www.example.com")),
            ("www.example.com.shop", Some("www.example.com.shop")),
            ("www.example.com.shop.svc", Some("www.example.com.shop.svc")),
        ];
        check("www.example.com.shop.svc.cluster.local", &full);
        // A search domain alone is no name without it.
        check(
            "cluster.local",
            &[
                ("cluster.local", None),
                ("cluster.local.svc.cluster.local", None),
                ("cluster.local.shop.svc.cluster.local", None),
            ],
        );
    }

    #[test]
    fn wildcards_go_from_the_narrowest_to_the_widest() {
        let mut tried = Vec::new();
        let none: Option<()> = with_wildcards("a.b.c", |name| {
            tried.push(name.to_owned());
            None
        });
        assert_eq!((none, tried), (None, ["a.b.c", "*.b.c", "*.c"].map(str::to_owned).to_vec()));
        assert_eq!(with_wildcards("a.b", |name| (name == "*.b").then_some(1)), Some(1));
    }
}
