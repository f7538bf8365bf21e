//! The field table: every fact that Sekisho can see, declared once. The policy symbol, the event column, the search field,
//! the schema file and the reference page all come from these rows. Names are the Cloudflare Gateway selectors where one
//! exists (features.md 1.3.3 to 1.3.7), columns the flattened OCSF attributes, and Logpush names those of 1.10.

use crate::{Gate, Station, Type};

/// OCSF observable types: what an indicator can be compared with (`type_id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Observable {
    Hostname,
    Ip,
    UserName,
    Email,
    Url,
    FileName,
    Hash,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub name: &'static str,
    pub ty: Type,
    /// The first station, per gate, at which the fact can be known.
    pub stations: &'static [(Gate, Station)],
    pub doc: &'static str,
    /// The stored column; several fields may share one (a host is a host at every gate). Empty where it is not stored.
    pub column: &'static str,
    /// The OCSF attribute path that the column flattens.
    pub ocsf: &'static str,
    /// The name in Sigma rules of the field's usual log source; empty where there is none.
    pub sigma: &'static str,
    /// The Logpush column (LG-01, LG-02, LG-03); empty where there is none.
    pub logpush: &'static str,
    /// Other spellings that the language accepts.
    pub aliases: &'static [&'static str],
    /// What an indicator can match in it.
    pub observable: Option<Observable>,
}

macro_rules! stations {
    ($($gate:ident $station:ident),*) => { &[$((Gate::$gate, Station::$station)),*] };
}

macro_rules! observable {
    () => {
        None
    };
    ($kind:ident) => {
        Some(Observable::$kind)
    };
}

macro_rules! fields {
    ($($(#[doc = $doc:literal])+ $id:ident $name:literal $ty:ident [$($at:tt)*] $column:literal $ocsf:literal $sigma:literal $logpush:literal
        [$($alias:literal)*] $($kind:ident)?;)+) => {
        /// A row of the table by its place.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum FieldId { $($(#[doc = $doc])+ $id,)+ }

        /// Every field, in the order of the reference page.
        pub const FIELDS: &[Field] = &[$(Field {
            name: $name, ty: Type::$ty, stations: stations!($($at)*), doc: concat!($($doc),+).trim_ascii_start(), column: $column, ocsf: $ocsf,
            sigma: $sigma, logpush: $logpush, aliases: &[$($alias),*], observable: observable!($($kind)?),
        },)+];

        const IDS: &[FieldId] = &[$(FieldId::$id),+];
    };
}

fields! {
    // Who and where from.
    /// Address of the client as the gate sees it.
    SourceIp "net.src.ip" Ip [Dns Connect, Web Connect, L4 Connect, Mail Connect, Api Connect] "src_ip" "src_endpoint.ip" "src_ip" "SourceIP"
        ["dns.src_ip" "http.conn.src_ip" "http.src_ip"] Ip;
    /// Port of the client.
    SourcePort "net.src.port" Int [Dns Connect, Web Connect, L4 Connect, Mail Connect, Api Connect] "src_port" "src_endpoint.port" "src_port" "SourcePort" [];
    /// Address of the client inside its network, where a trusted PROXY header or proxy names it.
    SourceInternalIp "net.src.internal_src_ip" Ip [Dns Connect, Web Connect, L4 Connect] "src_internal_ip" "src_endpoint.intermediate_ips" "" "SourceInternalIP"
        ["dns.src_internal_ip" "http.conn.internal_src_ip"] Ip;
    /// Country of the client's address (ISO 3166-1 alpha-2), from the operator's geography file.
    SourceCountry "net.src.geo.country" Text [Dns Connect, Web Connect, L4 Connect, Mail Connect] "src_country" "src_endpoint.location.country" "" "SourceIPCountryCode"
        ["dns.src.geo.country" "http.src_ip.geo.country"];
    /// Continent of the client's address: AF AN AS EU NA OC SA, or T1 for Tor.
    SourceContinent "net.src.geo.continent" Text [Dns Connect, Web Connect, L4 Connect, Mail Connect] "src_continent" "src_endpoint.location.continent" "" "SourceIPContinentCode"
        ["dns.src.geo.continent" "http.src_ip.geo.continent"];
    /// Number of the autonomous system that the client's address belongs to, from the operator's file; absent is unknown.
    SourceAsn "net.src.asn" Int [L4 Connect] "src_asn" "src_endpoint.autonomous_system.number" "" "ClientAsn" [];
    /// Transport protocol: `tcp`, `udp` or `quic`.
    Protocol "net.protocol" Text [Dns Connect, Web Connect, L4 Connect, Mail Connect, Api Connect] "protocol_name" "connection_info.protocol_name" "" "TransportProtocol" [];
    /// How the client came: `udp`, `tcp`, `dot`, `doh`, `proxy`, `socks`, `transparent`.
    OnRamp "net.onramp.type" Text [Dns Connect, Web Connect, L4 Connect, Mail Connect, Api Connect] "onramp" "unmapped.onramp" "" "Protocol" [];
    /// Name of the location document that the client's network or token belongs to.
    Location "dns.location" Text [Dns Connect, Web Connect] "location" "src_endpoint.zone" "" "Location" ["net.location"];
    /// Token in the path or host of the DNS-over-HTTPS endpoint.
    DohSubdomain "dns.doh_subdomain" Text [Dns Connect] "doh_subdomain" "unmapped.doh_subdomain" "" "DoHSubdomain" [];
    /// Name of the proxy listener that the client reached.
    ProxyEndpoint "proxy.endpoint" Text [Web Connect] "proxy_endpoint" "proxy_endpoint.name" "" "ProxyEndpoint" [];
    /// E-mail address of the user.
    UserEmail "identity.email" Text [Dns Connect, Web Connect, L4 Connect, Mail Envelope, Api Connect] "user_name" "actor.user.name" "User" "Email" [] UserName;
    /// The user's e-mail address as all its spellings share it: without dots and what follows a plus (ID-05).
    UserMailbox "identity.mailbox" Text [Dns Connect, Web Connect, L4 Connect, Mail Envelope, Api Connect] "" "actor.user.name" "" "" [];
    /// Display name of the user.
    UserName "identity.name" Text [Dns Connect, Web Connect, L4 Connect, Mail Envelope, Api Connect] "user_full_name" "actor.user.full_name" "" "" [];
    /// Identifier of the user in the directory.
    UserId "identity.id" Text [Dns Connect, Web Connect, L4 Connect, Mail Envelope, Api Connect] "user_uid" "actor.user.uid" "" "UserID" [];
    /// Names of the user's groups.
    GroupNames "identity.groups.name" Texts [Dns Connect, Web Connect, L4 Connect, Mail Envelope, Api Connect] "user_groups" "actor.user.groups.name" "" "" [];
    /// Identifiers of the user's groups.
    GroupIds "identity.groups.id" Texts [Dns Connect, Web Connect, L4 Connect, Mail Envelope, Api Connect] "" "actor.user.groups.uid" "" "" [];
    /// E-mail addresses of the user's groups.
    GroupEmails "identity.groups.email" Texts [Dns Connect, Web Connect, L4 Connect, Mail Envelope, Api Connect] "" "actor.user.groups.desc" "" "" [];
    /// SAML attributes of the user.
    SamlAttributes "identity.saml_attributes" TextMap [Dns Connect, Web Connect, L4 Connect] "" "actor.user.ldap_person" "" "" [];
    /// OpenID Connect claims of the user.
    OidcClaims "identity.oidc_claims" TextMap [Dns Connect, Web Connect, L4 Connect] "" "actor.user.ldap_person" "" "" [];
    /// How the user was recognised: `token`, `basic`, `certificate`, `location`, `doh`.
    IdentityHow "identity.how" Text [Dns Connect, Web Connect, L4 Connect, Api Connect] "user_proof" "actor.user.type" "" "" [];
    /// Identifier of the device.
    DeviceId "device.id" Text [Dns Connect, Web Connect, L4 Connect] "device_uid" "device.uid" "" "DeviceID" [];
    /// Name of the device.
    DeviceName "device.name" Text [Dns Connect, Web Connect, L4 Connect] "device_name" "device.hostname" "ComputerName" "DeviceName" [];

    // Names.
    /// The name asked for, exactly.
    DnsFqdn "dns.fqdn" Text [Dns Question] "host" "query.hostname" "query" "QueryName" [] Hostname;
    /// The name asked for and each of its parents, so that a domain matches all below it.
    DnsDomains "dns.domains" Texts [Dns Question] "" "query.hostname" "" "QueryNameReversed" [];
    /// Record type asked for: `A`, `AAAA`, `TXT`.
    DnsQueryType "dns.query_rtype" Text [Dns Question] "dns_qtype" "query.type" "record_type" "QueryTypeName" [];
    /// Bytes of the query message.
    DnsQuerySize "dns.query_size" Int [Dns Question] "dns_query_bytes" "traffic.bytes_in" "" "QuerySize" [];
    /// Content categories of the name.
    DnsContentCategory "dns.content_category" Ints [Dns Question] "content_category_ids" "unmapped.content_category_ids" "" "QueryCategoryIDs" [];
    /// Security categories of the name.
    DnsSecurityCategory "dns.security_category" Ints [Dns Question] "security_category_ids" "unmapped.security_category_ids" "" "MatchedCategoryIDs" [];
    /// Identifiers of the indicator feeds that list the name.
    DnsIndicatorFeed "dns.indicator_feed" Ints [Dns Question] "indicator_feed_ids" "unmapped.indicator_feed_ids" "" "MatchedIndicatorFeedIDs" [];
    /// Content categories of the queried name alone, without those of names that it leads to (GW-034).
    DnsNameContentCategory "dns.name.content_category" Ints [Dns Question] "" "unmapped.content_category_ids" "" "" [];
    /// Security categories of the queried name alone, without those of names that it leads to (GW-034).
    DnsNameSecurityCategory "dns.name.security_category" Ints [Dns Question] "" "unmapped.security_category_ids" "" "" [];
    /// Content categories of the answer's addresses (GW-033).
    DnsAddressContentCategory "dns.address.content_category" Ints [Dns Answer] "" "unmapped.content_category_ids" "" "" [];
    /// Security categories of the answer's addresses (GW-033).
    DnsAddressSecurityCategory "dns.address.security_category" Ints [Dns Answer] "" "unmapped.security_category_ids" "" "" [];
    /// Indicator feeds that hold one of the answer's addresses (GW-033).
    DnsAddressIndicatorFeed "dns.address.indicator_feed" Ints [Dns Answer] "" "unmapped.indicator_feed_ids" "" "" [];
    /// Address of ours to which the query was sent (the singular is the dialect's).
    DnsResolverIp "dns.resolved_ip" Ips [Dns Connect] "" "dst_endpoint.ip" "" "DstIP" [];
    /// Category matches that the client sent in EDNS option 65050.
    DnsRequestContextMatches "dns.categories_in_request_context_matches" Bool [Dns Question] "" "unmapped.request_context" "" "RequestContextCategoryIDs" [];
    /// Addresses in the answer.
    DnsResolvedIps "dns.resolved_ips" Ips [Dns Answer] "dns_resolved_ips" "answers.rdata" "" "ResolvedIPs" [] Ip;
    /// Every CNAME of the answer's chain.
    DnsResponseCname "dns.response.cname" Texts [Dns Answer] "dns_cnames" "answers.rdata" "" "CNAMEs" [] Hostname;
    /// Mail exchangers in the answer.
    DnsResponseMx "dns.response.mx" Texts [Dns Answer] "" "answers.rdata" "" "" [];
    /// Pointer names in the answer.
    DnsResponsePtr "dns.response.ptr" Texts [Dns Answer] "" "answers.rdata" "" "" [];
    /// Text records in the answer.
    DnsResponseTxt "dns.response.txt" Texts [Dns Answer] "" "answers.rdata" "" "" [];
    /// Country of the answer's addresses.
    DnsAnswerCountry "dns.dst.geo.country" Text [Dns Answer] "dst_country" "dst_endpoint.location.country" "" "ResolvedIPCountryCodes" [];
    /// Continent of the answer's addresses.
    DnsAnswerContinent "dns.dst.geo.continent" Text [Dns Answer] "dst_continent" "dst_endpoint.location.continent" "" "ResolvedIPContinentCodes" [];
    /// Records in the answer as `TYPE data`.
    DnsAnswers "dns.answers" Texts [Dns Answer] "dns_answers" "answers.rdata" "answers" "ResourceRecordsJSON" [];
    /// Response code by name: `NOERROR`, `NXDOMAIN`.
    DnsRcode "dns.rcode" Text [Dns Answer] "dns_rcode" "rcode" "rcode_name" "RCode" [];
    /// Extended errors in the answer (RFC 8914).
    DnsExtendedErrors "dns.ede" Ints [Dns Record] "dns_ede" "unmapped.dns_ede" "" "EDEErrors" [];
    /// Whether the answer came from the cache.
    DnsCached "dns.cached" Bool [Dns Answer] "dns_cached" "unmapped.dns_cached" "" "IsResponseCached" [];
    /// Upstream resolver that answered.
    DnsUpstream "dns.upstream" Text [Dns Answer] "dns_upstream" "proxy_endpoint.ip" "" "CustomResolverAddress" [];
    /// Times to live of the answer's records as the upstream gave them, seconds (AC-06).
    DnsUpstreamTtls "dns.upstream_ttls" Ints [Dns Record] "dns_upstream_ttls" "answers.ttl" "" "UpstreamRecordTTLs" [];
    /// What decided the answer, in the Gateway's words: `allowedByQueryName`, `overrideForSafeSearch`.
    DnsDecision "dns.decision" Text [Dns Record] "dns_decision" "unmapped.dns_decision" "" "ResolverDecision" [];
    /// Ceiling that was put on the answer's time to live, seconds.
    DnsMaxTtl "dns.applied_max_ttl" Int [Dns Record] "dns_max_ttl" "unmapped.dns_max_ttl" "" "AppliedMaxTTL" [];

    // Destinations of connections.
    /// Address that the connection goes to. Known to a forward proxy when it has resolved the name.
    DestinationIp "net.dst.ip" Ip [L4 Connect, Web Handshake, Mail Deliver, Api Request] "dst_ip" "dst_endpoint.ip" "dst_ip" "DestinationIP" [] Ip;
    /// Port that the connection goes to.
    DestinationPort "net.dst.port" Int [L4 Connect, Web Connect, Mail Deliver, Api Request] "dst_port" "dst_endpoint.port" "dst_port" "DestinationPort" ["http.conn.dst_port"];
    /// Addresses that the host has.
    WebDestinationIps "http.conn.dst_ip" Ips [Web Handshake] "" "dst_endpoint.ip" "" "" [];
    /// Country of the destination's address.
    DestinationCountry "net.dst.geo.country" Text [Web Handshake, L4 Connect] "dst_country" "dst_endpoint.location.country" "" "DestinationIPCountryCode" ["http.dst_ip.geo.country"];
    /// Continent of the destination's address.
    DestinationContinent "net.dst.geo.continent" Text [Web Handshake, L4 Connect] "dst_continent" "dst_endpoint.location.continent" "" "DestinationIPContinentCode" ["http.dst_ip.geo.continent"];
    /// Protocol recognised in the first bytes: `http`, `http2`, `tls`, `ssh`.
    DetectedProtocol "net.protocol.detection" Text [L4 FirstBytes, Web Handshake] "app_protocol" "connection_info.app_protocol_name" "" "DetectedProtocol" [];
    /// Server name in the TLS ClientHello.
    SniHost "net.sni.host" Text [Web Handshake, L4 FirstBytes] "tls_sni" "tls.sni" "server_name" "SNI" [] Hostname;
    /// Server name in the TLS ClientHello and each of its parents.
    SniDomains "net.sni.domains" Texts [Web Handshake, L4 FirstBytes] "" "tls.sni" "" "" [];
    /// Content categories of the server name.
    FqdnContentCategory "net.fqdn.content_category" Ints [Web Handshake, L4 FirstBytes] "" "unmapped.content_category_ids" "" "" [];
    /// Security categories of the server name.
    FqdnSecurityCategory "net.fqdn.security_category" Ints [Web Handshake, L4 FirstBytes] "" "unmapped.security_category_ids" "" "" [];

    // TLS.
    /// JA4 fingerprint of the client's hello.
    ClientJa4 "tls.client.ja4" Text [Web Handshake, L4 FirstBytes] "tls_ja4" "tls.ja4_fingerprint_list.value" "ja4" "" [];
    /// Protocols that the client offers inside TLS (ALPN).
    ClientAlpn "tls.client.alpn" Texts [L4 FirstBytes] "tls_client_alpn" "tls.tls_extension_list.data" "" "" [];
    /// Cipher suite agreed with the client.
    ClientTlsCipher "tls.client.cipher" Text [L4 Record] "tls_cipher" "tls.cipher" "" "ClientTlsCipher" [];
    /// How the client's handshake ended: `UNKNOWN`, `OK`, `INTERNAL_ERROR`, `INVALID_SNI`, `HANDSHAKE_FAILED`.
    ClientTlsStatus "tls.client.status" Text [L4 Record] "tls_client_status" "unmapped.tls_client_status" "" "ClientTlsStatus" [];
    /// How the way to the origin is protected: `off`, `flexible`, `full`, `strict`.
    OriginTlsMode "tls.origin.mode" Text [L4 Record] "tls_origin_mode" "unmapped.tls_origin_mode" "" "OriginTlsMode" [];
    /// Cipher suite agreed with the origin.
    OriginTlsCipher "tls.origin.cipher" Text [L4 Record] "tls_origin_cipher" "unmapped.tls_origin_cipher" "" "OriginTlsCipher" [];
    /// SHA-256 of the origin's certificate, hexadecimal.
    OriginTlsFingerprint "tls.origin.fingerprint" Text [L4 Record] "tls_origin_fingerprint" "tls.certificate.fingerprints.value" "" "OriginTlsFingerprint" [];
    /// How the origin's handshake ended: `UNKNOWN`, `OK`, `INVALID_CERTIFICATE`, `HANDSHAKE_FAILED`.
    OriginTlsStatus "tls.origin.status" Text [L4 Record] "tls_origin_status" "unmapped.tls_origin_status" "" "OriginTlsStatus" [];
    /// TLS version towards the client.
    ClientTlsVersion "tls.client.version" Text [Web Request, L4 Record] "tls_version" "tls.version" "" "ClientTlsProtocol" [];
    /// TLS version towards the origin.
    OriginTlsVersion "tls.origin.version" Text [Web Request, L4 Record] "tls_origin_version" "unmapped.tls_origin_version" "" "OriginTlsProtocol" [];
    /// What was wrong with the origin's certificate: `expired`, `unknown_issuer`.
    CertificateProblem "tls.origin.problem" Text [Web Request, L4 Record] "tls_problem" "tls.alert" "" "" [];
    /// What was done about it: `error`, `block` or `passThrough`; empty where there was nothing wrong (GW-031).
    UntrustedAction "tls.origin.untrusted_action" Text [Web Record] "untrusted_cert_action" "unmapped.untrusted_cert_action" "" "UntrustedCertificateAction" [];
    /// Why the bytes were not inspected; empty where they were (CX-04).
    BypassReason "tls.bypass_reason" Text [Web Record, L4 Record] "bypass_reason" "unmapped.bypass_reason" "" "" [];

    // Services behind the L4 gate (SP-50).
    /// Name of the service that the client reached, as its document has it.
    L4App "l4.app" Text [L4 Connect] "l4_app" "dst_endpoint.svc_name" "" "Application" [];
    /// Port of ours that the client reached.
    L4EdgePort "l4.edge.port" Int [L4 Connect] "l4_edge_port" "proxy_endpoint.port" "" "" [];
    /// Host of the origin that was chosen, as its document has it.
    L4Origin "l4.origin.host" Text [L4 Connect] "l4_origin_host" "dst_endpoint.hostname" "" "" [];
    /// Transport towards the origin: `tcp` or `udp`.
    L4OriginProtocol "l4.origin.protocol" Text [L4 Connect] "l4_origin_protocol" "unmapped.origin_protocol" "" "OriginProto" [];
    /// PROXY header that the origin gets: `off`, `v1`, `v2`, `simple`.
    L4ProxyProtocol "l4.proxy_protocol" Text [L4 Connect] "l4_proxy_protocol" "unmapped.proxy_protocol" "" "ProxyProtocol" [];
    /// Bytes from the client so far. A rule that reads it is asked again while the flow lasts.
    FlowBytesOut "flow.bytes_out" Int [L4 Flow] "" "traffic.bytes_out" "" "" [];
    /// Bytes to the client so far.
    FlowBytesIn "flow.bytes_in" Int [L4 Flow] "" "traffic.bytes_in" "" "" [];
    /// Seconds since the flow began.
    FlowSeconds "flow.seconds" Int [L4 Flow] "" "duration" "" "" [];
    /// Bytes a second in both directions together, since the rules were asked last.
    FlowRate "flow.bytes_per_second" Int [L4 Flow] "" "unmapped.flow_rate" "" "" [];
    /// What became of the flow: `disconnect`, `clientFiltered`, `tlsError`, `resolveOrigin`, `originError` (SP-47).
    L4Event "l4.event" Text [L4 Record] "l4_event" "activity_name" "" "Event" [];
    /// How the flow ended, by the numbers of SP-51: 200 normal, 403 refused, 521 origin refused.
    L4Status "l4.status" Int [L4 Record] "l4_status" "status_code" "" "Status" [];
    /// Whether the rules were asked at `connect`, which they always are.
    L4IpFirewall "l4.ip_firewall" Bool [L4 Record] "l4_ip_firewall" "unmapped.ip_firewall" "" "IpFirewall" [];
    /// What the rules that read the client's address said: `UNKNOWN`, `ALLOW`, `BLOCK_IP`, `BLOCK_COUNTRY`, `BLOCK_ASN`.
    L4MatchedIpFirewall "l4.matched_ip_firewall" Text [L4 Record] "l4_matched_ip_firewall" "unmapped.matched_ip_firewall" "" "ClientMatchedIpFirewall" [];
    /// Time at which the flow ended.
    EndTime "event.end_time" Time [L4 Record] "end_time" "end_time" "" "DisconnectTimestamp" [];
    /// Name of the place where this program runs, from the configuration.
    Site "event.site" Text [L4 Record] "site" "metadata.loggers.name" "" "ColoCode" [];

    // Web requests and responses.
    /// Host of the request; before the request, the host of the CONNECT or of the server name.
    HttpHost "http.request.host" Text [Web Handshake] "host" "http_request.url.hostname" "cs-host" "HTTPHost" ["http.conn.hostname"] Hostname;
    /// Host of the request and each of its parents.
    HttpDomains "http.request.domains" Texts [Web Handshake] "" "http_request.url.hostname" "" "" ["http.conn.domains"];
    /// Whole URL of the request.
    HttpUrl "http.request.uri" Text [Web Request] "url" "http_request.url.url_string" "c-uri" "URL" [] Url;
    /// Path of the URL.
    HttpPath "http.request.uri.path" Text [Web Request] "" "http_request.url.path" "cs-uri-stem" "" [];
    /// Path and query of the URL.
    HttpPathAndQuery "http.request.uri.path_and_query" Text [Web Request] "" "http_request.url.path" "" "" [];
    /// Query of the URL, without its question mark.
    HttpQuery "http.request.uri.query" Text [Web Request] "" "http_request.url.query_string" "cs-uri-query" "" [];
    /// Method of the request.
    HttpMethod "http.request.method" Text [Web Request] "http_method" "http_request.http_method" "cs-method" "HTTPMethod" [];
    /// User agent of the request.
    HttpUserAgent "http.request.user_agent" Text [Web Request] "user_agent" "http_request.user_agent" "c-useragent" "UserAgent" [];
    /// Referrer of the request.
    HttpReferrer "http.request.referrer" Text [Web Request] "referrer" "http_request.referrer" "cs-referrer" "Referer" [];
    /// HTTP version of the request: `HTTP/1.1`, `HTTP/2`.
    HttpVersion "http.request.version" Text [Web Request] "http_version" "http_request.version" "cs-version" "HTTPVersion" [];
    /// Content categories of the host.
    HttpContentCategory "http.request.uri.content_category" Ints [Web Handshake] "content_category_ids" "http_request.url.category_ids" "" "CategoryIDs" ["http.conn.content_category"];
    /// Security categories of the host.
    HttpSecurityCategory "http.request.uri.security_category" Ints [Web Handshake] "security_category_ids" "http_request.url.category_ids" "" "CategoryIDs" ["http.conn.security_category"];
    /// Applications that the host belongs to or that need it, by number. A rule that refuses reads `app.hosts_ids` in its place (ON-09).
    AppIds "app.ids" Ints [Dns Question, Web Handshake, L4 FirstBytes] "app_ids" "unmapped.app_ids" "" "ApplicationIDs" [];
    /// Applications that own the host, by number.
    AppOwnIds "app.hosts_ids" Ints [Dns Question, Web Handshake, L4 FirstBytes] "" "unmapped.app_ids" "" "" [];
    /// Applications that need the host and share it with others, by number.
    AppSupportIds "app.supports_ids" Ints [Dns Question, Web Handshake, L4 FirstBytes] "" "unmapped.app_ids" "" "" [];
    /// Types of the applications of `app.ids`, by number. A rule that refuses reads `app.type.hosts_ids` in its place.
    AppTypeIds "app.type.ids" Ints [Dns Question, Web Handshake, L4 FirstBytes] "" "unmapped.app_type_ids" "" "" [];
    /// Types of the applications that own the host, by number.
    AppOwnTypeIds "app.type.hosts_ids" Ints [Dns Question, Web Handshake, L4 FirstBytes] "" "unmapped.app_type_ids" "" "" [];
    /// Names of the applications of `app.ids`. A rule that refuses reads `app.hosts_names` in its place.
    AppNames "app.names" Texts [Dns Question, Web Handshake, L4 FirstBytes] "app_name" "app_name" "" "ApplicationNames" [];
    /// Names of the applications that own the host.
    AppOwnNames "app.hosts_names" Texts [Dns Question, Web Handshake, L4 FirstBytes] "" "app_name" "" "" [];
    /// Review states of the applications of `app.ids`: `approved`, `unreviewed`. A rule that refuses reads `app.hosts_statuses` in its place.
    AppStatuses "app.statuses" Texts [Dns Question, Web Handshake, L4 FirstBytes] "" "unmapped.app_statuses" "" "ApplicationStatuses" [];
    /// Review states of the applications that own the host.
    AppOwnStatuses "app.hosts_statuses" Texts [Dns Question, Web Handshake, L4 FirstBytes] "" "unmapped.app_statuses" "" "" [];
    /// Which body is in hand: `upload` or `download`.
    BodyPhase "http.body_phase" Text [Web RequestBody] "body_phase" "unmapped.body_phase" "" "" [];
    /// Media type that the request's Content-Type header claims.
    UploadMime "http.upload.mime" Text [Web Request] "mime_upload" "http_request.content_type" "" "" [];
    /// True file types of the request's body, by signature, with their group names.
    UploadFileTypes "http.upload.file.types" Texts [Web RequestBody] "" "file.type" "" "" [];
    /// Size of the request's body, MiB rounded down.
    UploadFileSize "http.upload.file.size" Int [Web RequestBody] "" "file.size" "" "" [];
    /// Media type that the response's Content-Type header claims.
    DownloadMime "http.download.mime" Text [Web Response] "mime" "http_response.content_type" "" "" [];
    /// True file types of the response's body, by signature, with their group names.
    DownloadFileTypes "http.download.file.types" Texts [Web ResponseBody] "" "file.type" "" "" [];
    /// Size of the response's body, MiB rounded down.
    DownloadFileSize "http.download.file.size" Int [Web ResponseBody] "" "file.size" "" "" [];
    /// Status code of the response; 0 if nothing came back.
    HttpStatus "http.response.status_code" Int [Web Response] "http_status" "http_response.code" "sc-status" "HTTPStatusCode" [];

    // Files.
    /// File name in hand, from Content-Disposition or the URL.
    FileName "file.name" Text [Web ResponseBody, Mail Message] "file_name" "file.name" "TargetFilename" "DownloadedFileNames" [] FileName;
    /// Size of the file, bytes.
    FileSize "file.size" Int [Web ResponseBody, Mail Message] "file_size" "file.size" "" "BlockedFileSize" [];
    /// SHA-256 of the file, hexadecimal.
    FileSha256 "file.sha256" Text [Web ResponseBody, Mail Message] "file_sha256" "file.hashes.value" "sha256" "BlockedFileHash" [] Hash;
    /// True type of the file, by signature.
    FileType "file.type" Text [Web ResponseBody, Mail Message] "file_type" "file.type_id" "" "BlockedFileType" [];
    /// Verdict of the scan: `clean`, `malicious`, `suspicious`, `unscannable`.
    ScanVerdict "scan.verdict" Text [Web ResponseBody, Mail Message] "scan_verdict" "unmapped.scan_verdict" "" "" [];
    /// Why the file could not be scanned, or how the scan ended.
    ScanReason "scan.reason" Text [Web ResponseBody, Mail Message] "scan_reason" "unmapped.scan_reason" "" "BlockedFileReason" [];
    /// Engine that named the malware.
    ScanEngine "scan.engine" Text [Web ResponseBody, Mail Message] "scan_engine" "malware.provider" "" "" [];
    /// Signature that matched.
    ScanSignature "scan.signature" Text [Web ResponseBody, Mail Message] "malware_name" "malware.name" "" "" [];
    /// Member of an archive in which it matched.
    ScanMember "scan.member" Text [Web ResponseBody, Mail Message] "malware_path" "malware.path" "" "" [];
    /// Whether the scan called the file malicious.
    IsMalicious "scan.malicious" Bool [Web ResponseBody, Mail Message] "" "unmapped.scan_malicious" "" "" [];
    /// Data-loss profiles that matched.
    DlpProfiles "dlp.profiles" Texts [Web RequestBody, Mail Message] "dlp_profiles" "unmapped.dlp_profiles" "" "UploadMatchedDlpProfiles" [];

    // Findings and the record itself.
    /// What inspectors noticed, `inspector: title`.
    Findings "finding.titles" Texts [Dns Question, Web Request, L4 FirstBytes, Mail Message, Api Request] "findings" "finding_info.title" "" "Warnings" [];
    /// Time at which the transaction began.
    Time "event.time" Time [Dns Connect, Web Connect, L4 Connect, Mail Connect, Api Connect] "" "time" "" "Datetime" ["time"];
    /// Gate of the transaction: `dns`, `web`, `l4`, `mail`, `api`.
    GateName "event.gate" Text [Dns Connect, Web Connect, L4 Connect, Mail Connect, Api Connect] "gate" "metadata.product.feature.name" "" "" ["gate"];
    /// Number of the transaction, hexadecimal; the reference on a block page.
    Reference "event.reference" Text [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "reference" "metadata.correlation_uid" "" "RequestID" [];
    /// OCSF activity: 6 traffic, or the method's number for web requests.
    ActivityId "event.activity" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "activity_id" "activity_id" "" "" [];
    /// OCSF severity, 1 informational to 5 critical.
    SeverityId "event.severity" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "severity_id" "severity_id" "" "" [];
    /// OCSF action: 1 allowed, 2 denied, 4 modified.
    ActionId "event.action" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "action_id" "action_id" "" "" [];
    /// OCSF disposition: 1 allowed, 2 blocked, 6 dropped.
    DispositionId "event.disposition" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "disposition_id" "disposition_id" "" "" [];
    /// Outcome in a word: `allowed`, `blocked`, `quarantined`, `dropped`, `corrected`, `error`, `no_action`.
    VerdictOutcome "verdict.outcome" Text [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "disposition" "disposition" "action" "Action" ["verdict"];
    /// Name of the rule that decided access.
    VerdictRule "verdict.rule" Text [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "rule_name" "firewall_rule.name" "rule" "PolicyName" [];
    /// Identifier of the rule that decided access.
    VerdictRuleId "verdict.rule_id" Text [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "rule_uid" "firewall_rule.uid" "" "PolicyID" [];
    /// Every rule that matched, `question=action:rule`.
    VerdictRules "verdict.rules" Texts [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "rules_matched" "unmapped.rules_matched" "" "" [];
    /// Why, in one line for people.
    VerdictReason "verdict.reason" Text [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "status_detail" "status_detail" "" "" [];
    /// Revision of the policy that decided.
    PolicyRevision "policy.revision" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "policy_revision" "policy.version" "" "" [];
    /// Bytes from the client.
    BytesOut "traffic.bytes_out" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "bytes_out" "traffic.bytes_out" "" "ClientBytes" [];
    /// Bytes to the client.
    BytesIn "traffic.bytes_in" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "bytes_in" "traffic.bytes_in" "" "OriginBytes" [];
    /// Length of the transaction, milliseconds.
    DurationMs "event.duration_ms" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "duration_ms" "duration" "" "ResponseTimeMs" [];
    /// What failed, in a word: `upstream_unreachable`, `deadline`, `client_gone`.
    Failure "event.failure" Text [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "failure" "status_code" "" "" [];
    /// How many alike this one event stands for; absent where it is one.
    Count "event.count" Int [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "count" "count" "" "" [];
    /// Header operations that were carried out, `set Name`.
    HeaderChanges "http.request.header_changes" Texts [Web Record] "header_changes" "unmapped.header_changes" "" "SetHeaders" [];
    /// Target of a redirect that was answered.
    RedirectTarget "http.redirect_target" Text [Web Record] "redirect_target" "unmapped.redirect_target" "" "RedirectTargetURI" [];
    /// All that has no column, as JSON.
    Extra "event.extra" Text [Dns Record, Web Record, L4 Record, Mail Record, Api Record] "ext_json" "unmapped" "" "" [];
}

/// A Cloudflare Gateway selector that a self-hosted edge cannot know, and why. The reference page lists them, and the
/// compiler answers with the reason.
pub const NOT_KNOWN_HERE: &[(&str, &str)] = &[
    ("dns.authoritative_ns_ips", "a forwarding resolver never sees the authoritative servers (DN-15)"),
    ("http.conn.vnet_id", "virtual networks belong to a hosted overlay (HT-21)"),
    ("net.vnet_id", "virtual networks belong to a hosted overlay (NW-10)"),
    ("access.target", "access applications belong to a hosted identity proxy (HT-22, NW-11)"),
    ("access.private_app", "access applications belong to a hosted identity proxy (HT-22, NW-11)"),
    ("net.offramp.type", "this edge has one way out (HT-24)"),
    ("device_posture.checks.passed", "posture comes from a client agent, which is not part of this edge (ID-08)"),
    ("device_posture.checks.failed", "posture comes from a client agent, which is not part of this edge (ID-08)"),
    ("net.fqdn.host", "egress by host needs synthetic addresses, which this edge does not hand out (NW-09)"),
    ("net.fqdn.domains", "egress by host needs synthetic addresses, which this edge does not hand out (NW-09)"),
];

impl Field {
    /// The first station of a gate at which the fact can be known, or none where that gate never sees it.
    pub fn station(&self, gate: Gate) -> Option<Station> {
        self.stations.iter().find(|(g, _)| *g == gate).map(|(_, station)| *station)
    }
}

impl FieldId {
    /// The row.
    pub const fn row(self) -> &'static Field {
        &FIELDS[self as usize]
    }

    pub const fn index(self) -> usize {
        self as usize
    }

    pub fn all() -> impl Iterator<Item = FieldId> {
        IDS.iter().copied()
    }

    /// The field with this name or alias.
    pub fn named(name: &str) -> Option<FieldId> {
        FieldId::all().find(|id| id.row().name == name || id.row().aliases.contains(&name))
    }
}

impl Observable {
    /// OCSF `observables[].type_id`.
    pub const fn type_id(self) -> i32 {
        match self {
            Observable::Hostname => 1,
            Observable::Ip => 2,
            Observable::UserName => 4,
            Observable::Email => 5,
            Observable::Url => 6,
            Observable::FileName => 7,
            Observable::Hash => 8,
        }
    }

    pub const ALL: &[Observable] = &[
        Observable::Hostname,
        Observable::Ip,
        Observable::UserName,
        Observable::Email,
        Observable::Url,
        Observable::FileName,
        Observable::Hash,
    ];
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn every_name_and_alias_is_declared_once() {
        let mut seen = HashMap::new();
        for field in FIELDS {
            for name in std::iter::once(&field.name).chain(field.aliases) {
                assert_eq!(seen.insert(*name, field.name), None, "{name} stands twice");
            }
        }
        for (name, _) in NOT_KNOWN_HERE {
            assert!(!seen.contains_key(name), "{name} is known after all");
        }
    }

    #[test]
    fn fields_that_share_a_column_share_its_type() {
        let mut columns = HashMap::new();
        for field in FIELDS.iter().filter(|field| !field.column.is_empty()) {
            assert_eq!(*columns.entry(field.column).or_insert(field.ty), field.ty, "{}", field.column);
        }
    }

    #[test]
    fn every_station_of_a_row_is_one_of_its_gate() {
        for field in FIELDS {
            assert!(!field.stations.is_empty() && !field.doc.is_empty(), "{}", field.name);
            for (gate, station) in field.stations {
                assert!(*station == Station::Record || gate.position(*station).is_some(), "{} at {gate:?}", field.name);
            }
        }
    }

    #[test]
    fn places_are_rows() {
        for (place, id) in FieldId::all().enumerate() {
            assert_eq!(id.index(), place);
            assert_eq!(FieldId::named(id.row().name), Some(id));
        }
        assert_eq!(FieldId::named("dns.src_ip"), Some(FieldId::SourceIp));
    }
}
