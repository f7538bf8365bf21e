//! Request headers by which a service lets only named tenants in (ON-11): the names of the headers and the hosts that read
//! them. Which tenants are allowed is the operator's rule; the header operation that sets them is the policy's.

/// One header of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantHeader {
    pub service: &'static str,
    /// Each covers itself and every name below it.
    pub hosts: &'static [&'static str],
    pub header: &'static str,
    /// What the value is, for the form that asks for it; a fixed value is written out.
    pub value: &'static str,
}

const MICROSOFT_LOGIN: &[&str] = &["login.microsoftonline.com", "login.microsoft.com", "login.windows.net"];

/// In the order of the reference page.
pub const TENANT_HEADERS: &[TenantHeader] = &[
    TenantHeader {
        service: "Microsoft 365",
        hosts: MICROSOFT_LOGIN,
        header: "Restrict-Access-To-Tenants",
        value: "tenant names, separated by commas",
    },
    TenantHeader {
        service: "Microsoft 365",
        hosts: MICROSOFT_LOGIN,
        header: "Restrict-Access-Context",
        value: "own directory id",
    },
    TenantHeader {
        service: "Microsoft accounts",
        hosts: &["login.live.com"],
        header: "Sec-Restrict-Tenant-Access-Policy",
        value: "restrict-msa",
    },
    TenantHeader {
        service: "Google Workspace",
        hosts: &["google.com"],
        header: "X-GoogApps-Allowed-Domains",
        value: "domains, separated by commas",
    },
    TenantHeader {
        service: "Slack",
        hosts: &["slack.com"],
        header: "X-Slack-Allowed-Workspaces-Requester",
        value: "own workspace or organisation id",
    },
    TenantHeader {
        service: "Slack",
        hosts: &["slack.com"],
        header: "X-Slack-Allowed-Workspaces",
        value: "workspace ids, separated by commas",
    },
    TenantHeader { service: "Dropbox", hosts: &["dropbox.com"], header: "X-Dropbox-allowed-Team-Ids", value: "team ids" },
    TenantHeader {
        service: "ChatGPT",
        hosts: &["chatgpt.com"],
        header: "Chatgpt-Allowed-Workspace-Id",
        value: "workspace ids, separated by commas",
    },
];

/// The headers that a host reads.
pub fn headers_of(host: &str) -> impl Iterator<Item = &'static TenantHeader> {
    TENANT_HEADERS.iter().filter(move |header| header.hosts.iter().any(|own| model::name::is_within(host, own)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ON-11.
    #[test]
    fn headers_go_to_their_own_service_only() {
        assert_eq!(headers_of("notslack.com").count(), 0);
        assert_eq!(headers_of("example.com").count(), 0);
        assert_eq!(headers_of("acme.slack.com").count(), 2);
        assert_eq!(headers_of("login.microsoftonline.com").count(), 2);
        assert_eq!(headers_of("login.live.com").map(|header| header.value).collect::<Vec<_>>(), ["restrict-msa"]);
    }
}
