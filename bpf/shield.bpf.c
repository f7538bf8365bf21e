// The packet path of the shield: what is decided about a packet before the kernel makes a socket buffer of it.
//
// It reads the Ethernet, IP, TCP, UDP and ICMP headers and drops what the tables say. It keeps no state of connections; where
// SYN cookies are on, it answers a SYN in place of the kernel. Everything that it decides, crates/shield/src/xdp/model.rs decides in the same order, and a test runs
// both on the same frames. Needs no header but this file; build.sh compiles it, and the object is committed beside it.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
// How the loader learns a map's shape (BTF-defined maps, Documentation/bpf/btf.rst).
#define NUMBER(name, value) int(*name)[value]
#define TYPE(name, value) value *name

enum { BPF_MAP_TYPE_HASH = 1, BPF_MAP_TYPE_ARRAY = 2, BPF_MAP_TYPE_PERCPU_ARRAY = 6, BPF_MAP_TYPE_LPM_TRIE = 11, BPF_MAP_TYPE_RINGBUF = 27 };
enum { BPF_F_NO_PREALLOC = 1 };
enum { XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3 };

// include/uapi/linux/bpf.h, the numbers of the helpers that are used.
static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static u32 (*random_u32)(void) = (void *)7;
static void *(*ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *data, u64 flags) = (void *)132;
static u64 (*ktime_coarse)(void) = (void *)160;
static long (*adjust_tail)(void *context, int delta) = (void *)65;
static void *(*lookup_tcp)(void *context, void *tuple, u32 size, u64 netns, u64 flags) = (void *)99;
static long (*release)(void *socket) = (void *)86;
static long (*gen_cookie)(void *socket, void *ip, u32 ip_length, void *tcp, u32 tcp_length) = (void *)110;
static long (*load_bytes)(void *context, u32 offset, void *to, u32 length) = (void *)189;

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

char licence[] SEC("license") = "Dual MIT/GPL";

// The reasons, in the order of crates/shield/src/xdp/model.rs.
enum { NOT_IP, ALLOWED, UNPROTECTED, PASSED, DENIED, MALFORMED, FRAGMENT, BOGUS_FLAGS, VECTOR, RULE, SOURCE_RATE, COOKIE, REASONS };

// Settings, each one u64.
enum { FLAGS, SAMPLE_MASK, INTERVAL, DEPTH, RULES, SEED, SETTINGS };
// Bits of FLAGS.
enum { ENFORCE = 1, DROP_FRAGMENTS = 2, DROP_BOGUS = 4, SYN_COOKIES = 8, LOST = 16 };

#define RULES_MAX 16
#define ATTRIBUTES 9
#define BUCKETS (1 << 20)
#define SAMPLE_BYTES 128

enum { A_PROTOCOL, A_SOURCE_PORT, A_DESTINATION_PORT, A_LENGTH, A_TTL, A_TCP_FLAGS, A_TCP_WINDOW, A_PAYLOAD, A_FRAGMENT };

struct prefix {
	u32 length;
	u32 address[4];
};

struct rule {
	u32 used;
	u32 values[ATTRIBUTES];
	// All ones where the value counts: one path through the comparison, whatever the rule names.
	u32 care[ATTRIBUTES];
	u32 address[4];
	u32 mask[4];
	u32 enforced;
};

struct sample {
	u32 length;
	u32 reason;
	u8 bytes[SAMPLE_BYTES];
};

struct packet {
	u32 source[4];
	u32 destination[4];
	u32 present;
	u32 values[ATTRIBUTES];
	u32 is_v4;
};

struct { NUMBER(type, BPF_MAP_TYPE_ARRAY); NUMBER(max_entries, SETTINGS); TYPE(key, u32); TYPE(value, u64); } settings SEC(".maps");
struct { NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY); NUMBER(max_entries, REASONS); TYPE(key, u32); TYPE(value, u64); } counters SEC(".maps");
struct { NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY); NUMBER(max_entries, RULES_MAX); TYPE(key, u32); TYPE(value, u64); } rule_hits SEC(".maps");
struct { NUMBER(type, BPF_MAP_TYPE_ARRAY); NUMBER(max_entries, RULES_MAX); TYPE(key, u32); TYPE(value, struct rule); } rules SEC(".maps");
// One bit for each IPv4 /24: a million of them cost one look.
struct { NUMBER(type, BPF_MAP_TYPE_ARRAY); NUMBER(max_entries, 1 << 18); TYPE(key, u32); TYPE(value, u64); } denied_24 SEC(".maps");
// The first 64 bits of an address: an IPv4 address (mapped), or the /64 of an IPv6 one.
struct { NUMBER(type, BPF_MAP_TYPE_HASH); NUMBER(max_entries, 1 << 20); NUMBER(map_flags, BPF_F_NO_PREALLOC); TYPE(key, u64); TYPE(value, u8); } denied SEC(".maps");
struct { NUMBER(type, BPF_MAP_TYPE_LPM_TRIE); NUMBER(max_entries, 16384); NUMBER(map_flags, BPF_F_NO_PREALLOC); TYPE(key, struct prefix); TYPE(value, u8); } allowed SEC(".maps");
struct { NUMBER(type, BPF_MAP_TYPE_LPM_TRIE); NUMBER(max_entries, 64); NUMBER(map_flags, BPF_F_NO_PREALLOC); TYPE(key, struct prefix); TYPE(value, u8); } protected SEC(".maps");
// UDP source ports of amplifiers, one bit each.
struct { NUMBER(type, BPF_MAP_TYPE_ARRAY); NUMBER(max_entries, 1024); TYPE(key, u32); TYPE(value, u64); } vectors SEC(".maps");
// When the bucket of each source is full again. Sources whose hash is the same share one.
struct { NUMBER(type, BPF_MAP_TYPE_ARRAY); NUMBER(max_entries, BUCKETS); TYPE(key, u32); TYPE(value, u64); } buckets SEC(".maps");
struct { NUMBER(type, BPF_MAP_TYPE_RINGBUF); NUMBER(max_entries, 1 << 22); } samples SEC(".maps");

INLINE u32 big16(const u8 *at) { return (u32)at[0] << 8 | at[1]; }
INLINE u32 big32(const u8 *at) { return (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3]; }
// Addresses stay in network order, word by word, as the tables hold them.
INLINE u32 word(const u8 *at) { return *(const u32 *)at; }

INLINE u64 setting(u32 which)
{
	u64 *value = map_lookup(&settings, &which);
	return value ? *value : 0;
}

INLINE void put(struct packet *packet, u32 attribute, u32 value)
{
	packet->present |= 1u << attribute;
	packet->values[attribute] = value;
}

INLINE void put_payload(struct packet *packet, const u8 *at, const u8 *end)
{
	if (at + 4 <= end)
		put(packet, A_PAYLOAD, big32(at));
}

INLINE void put_ports(struct packet *packet, const u8 *at)
{
	put(packet, A_SOURCE_PORT, big16(at));
	put(packet, A_DESTINATION_PORT, big16(at + 2));
}

// What stands behind the IP header.
INLINE void behind(struct packet *packet, u32 protocol, const u8 *at, const u8 *end)
{
	if (protocol == 6 && at + 20 <= end) {
		put_ports(packet, at);
		put(packet, A_TCP_FLAGS, at[13]);
		put(packet, A_TCP_WINDOW, big16(at + 14));
		u32 header = (u32)(at[12] >> 4) * 4;
		put_payload(packet, at + (header < 20 ? 20 : header), end);
	} else if (protocol == 17 && at + 8 <= end) {
		put_ports(packet, at);
		put_payload(packet, at + 8, end);
	} else if (protocol == 1 || protocol == 58) {
		put_payload(packet, at, end);
	}
}

INLINE u32 fragment_of(u32 offset, u32 has_more) { return offset ? 2 : has_more ? 1 : 0; }

INLINE int read_v4(struct packet *packet, const u8 *at, const u8 *end)
{
	if (at + 20 > end)
		return 0;
	u32 header = (at[0] & 0x0f) * 4;
	if (at[0] >> 4 != 4 || header < 20)
		return 0;
	packet->source[2] = packet->destination[2] = 0xffff0000;
	packet->source[3] = word(at + 12);
	packet->destination[3] = word(at + 16);
	packet->is_v4 = 1;
	u32 fragment = big16(at + 6);
	put(packet, A_PROTOCOL, at[9]);
	put(packet, A_LENGTH, big16(at + 2));
	put(packet, A_TTL, at[8]);
	put(packet, A_FRAGMENT, fragment_of(fragment & 0x1fff, fragment & 0x2000));
	if (!(fragment & 0x1fff))
		behind(packet, at[9], at + header, end);
	return 1;
}

INLINE int read_v6(struct packet *packet, const u8 *at, const u8 *end)
{
	if (at + 40 > end || at[0] >> 4 != 6)
		return 0;
	for (int i = 0; i < 4; i++) {
		packet->source[i] = word(at + 8 + 4 * i);
		packet->destination[i] = word(at + 24 + 4 * i);
	}
	put(packet, A_LENGTH, 40 + big16(at + 4));
	put(packet, A_TTL, at[7]);
	u32 protocol = at[6];
	at += 40;
	if (protocol != 44 || at + 8 > end) {
		put(packet, A_PROTOCOL, protocol);
		put(packet, A_FRAGMENT, 0);
		if (protocol != 44)
			behind(packet, protocol, at, end);
		return 1;
	}
	u32 fragment = big16(at + 2);
	put(packet, A_PROTOCOL, at[0]);
	put(packet, A_FRAGMENT, fragment_of(fragment >> 3, fragment & 1));
	if (!(fragment >> 3))
		behind(packet, at[0], at + 8, end);
	return 1;
}

INLINE int is_in(void *map, const u32 *address)
{
	struct prefix key = { 128, { address[0], address[1], address[2], address[3] } };
	return map_lookup(map, &key) != 0;
}

// The source as it is counted and denied.
INLINE u64 source_of(const struct packet *packet)
{
	if (packet->is_v4)
		return (u64)0xffff0000 << 32 | packet->source[3];
	return (u64)packet->source[1] << 32 | packet->source[0];
}

INLINE int is_denied(const struct packet *packet)
{
	u64 source = source_of(packet);
	if (packet->is_v4) {
		u32 network = __builtin_bswap32(packet->source[3]) >> 8;
		u32 place = network >> 6;
		u64 *bits = map_lookup(&denied_24, &place);
		if (bits && *bits >> (network & 63) & 1)
			return 1;
	}
	return map_lookup(&denied, &source) != 0;
}

// A packet that no stack would send: the land attack, a port of zero.
INLINE int is_malformed(const struct packet *packet)
{
	int is_land = 1;
	for (int i = 0; i < 4; i++)
		is_land &= packet->source[i] == packet->destination[i];
	u32 ports = 1u << A_SOURCE_PORT | 1u << A_DESTINATION_PORT;
	int has_ports = (packet->present & ports) == ports;
	return is_land || (has_ports && packet->values[A_DESTINATION_PORT] == 0);
}

// Flags that do not go together (RFC 9293 section 3.5): none, SYN with FIN or RST, FIN without ACK.
INLINE int has_bogus_flags(const struct packet *packet)
{
	if (!(packet->present & 1u << A_TCP_FLAGS))
		return 0;
	u32 flags = packet->values[A_TCP_FLAGS] & 0x3f;
	u32 fin = flags & 1, syn = flags & 2, rst = flags & 4, ack = flags & 16;
	return !flags || (syn && (fin || rst)) || (fin && !ack);
}

INLINE int is_vector(const struct packet *packet)
{
	if (packet->values[A_PROTOCOL] != 17 || !(packet->present & 1u << A_SOURCE_PORT))
		return 0;
	u32 port = packet->values[A_SOURCE_PORT], place = port >> 6;
	u64 *bits = map_lookup(&vectors, &place);
	return bits && *bits >> (port & 63) & 1;
}

INLINE int matches(const struct rule *rule, const struct packet *packet)
{
	u32 differs = (packet->present & rule->used) ^ rule->used;
	for (int i = 0; i < 4; i++)
		differs |= (packet->destination[i] & rule->mask[i]) ^ rule->address[i];
	for (int i = 0; i < ATTRIBUTES; i++)
		differs |= (packet->values[i] ^ rule->values[i]) & rule->care[i];
	return !differs;
}

INLINE int is_ruled_out(const struct packet *packet)
{
	u64 count = setting(RULES);
	for (u32 i = 0; i < RULES_MAX; i++) {
		if (i >= count)
			break;
		u32 place = i;
		struct rule *rule = map_lookup(&rules, &place);
		if (!rule || !matches(rule, packet))
			continue;
		u64 *hits = map_lookup(&rule_hits, &place);
		if (hits)
			++*hits;
		if (rule->enforced)
			return 1;
	}
	return 0;
}

// A token bucket as the moment at which it is full again. Two processors at once may let one packet more through.
INLINE int is_over_rate(const struct packet *packet)
{
	u64 interval = setting(INTERVAL);
	if (!interval)
		return 0;
	u64 mixed = (source_of(packet) ^ setting(SEED)) * 0x9e3779b97f4a7c15ull;
	u32 place = mixed >> 44;
	u64 *full_at = map_lookup(&buckets, &place);
	if (!full_at)
		return 0;
	u64 now = ktime_coarse(), next = (*full_at > now ? *full_at : now) + interval;
	if (next - now > setting(DEPTH))
		return 1;
	*full_at = next;
	return 0;
}

INLINE u32 judge(const struct packet *packet, u64 flags)
{
	if (is_denied(packet))
		return DENIED;
	if (flags & DROP_BOGUS && is_malformed(packet))
		return MALFORMED;
	if (flags & DROP_FRAGMENTS && packet->values[A_FRAGMENT])
		return FRAGMENT;
	if (flags & DROP_BOGUS && has_bogus_flags(packet))
		return BOGUS_FLAGS;
	if (is_vector(packet))
		return VECTOR;
	if (is_ruled_out(packet))
		return RULE;
	if (is_over_rate(packet))
		return SOURCE_RATE;
	return PASSED;
}

INLINE void take_sample(struct xdp_md *context, u32 length, u32 reason)
{
	struct sample *sample = ringbuf_reserve(&samples, sizeof(*sample), 0);
	if (!sample)
		return;
	sample->length = length;
	sample->reason = reason;
	u64 kept = length < SAMPLE_BYTES ? length : SAMPLE_BYTES;
	// The compiler knows that this is bounded and would leave the bound out; the verifier has to see it.
	asm volatile("" : "+r"(kept));
	if (kept < 1 || kept > SAMPLE_BYTES || load_bytes(context, 0, sample->bytes, kept))
		sample->length = 0;
	// No wake-up: the reader comes every few milliseconds by itself (BPF_RB_NO_WAKEUP).
	ringbuf_submit(sample, 1);
}

// include/uapi/linux/bpf.h, struct bpf_sock: its fourth word is the protocol, its state the eleventh.
struct socket {
	u32 bound_interface, family, type, protocol, mark, priority, source_v4, source_v6[4], source_port;
	u16 destination_port, pad;
	u32 destination_v4, destination_v6[4], state;
};

enum { LISTENING = 10, TCP_BYTES = 20, OPTION_BYTES = 4, FLAG_SYN = 2, FLAG_ACK = 16 };

INLINE u32 folded(u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

INLINE void write16(u8 *at, u32 value)
{
	at[0] = value >> 8;
	at[1] = value;
}

INLINE void write32(u8 *at, u32 value)
{
	write16(at, value >> 16);
	write16(at + 2, value);
}

INLINE void swap(u8 *one, u8 *other, u32 count)
{
	for (u32 i = 0; i < count; i++) {
		u8 kept = one[i];
		one[i] = other[i];
		other[i] = kept;
	}
}

// The kernel's own cookie for this SYN, which its listener accepts back in the ACK; with it the largest segment in the upper
// bits. Negative where there is none: the length of a TCP header is told in constants, as the verifier wants it.
#define COOKIE_OF(words) \
	if (words_of_header == words && tcp + words * 4 <= end) \
		cookie = gen_cookie(socket, ip, ip_bytes, tcp, words * 4);

INLINE long cookie_of(void *socket, u8 *ip, u32 ip_bytes, u8 *tcp, const u8 *end)
{
	long cookie = -1;
	u32 words_of_header = tcp[12] >> 4;
	COOKIE_OF(5) else COOKIE_OF(6) else COOKIE_OF(7) else COOKIE_OF(8) else COOKIE_OF(9) else COOKIE_OF(10)
	else COOKIE_OF(11) else COOKIE_OF(12) else COOKIE_OF(13) else COOKIE_OF(14) else COOKIE_OF(15)
	return cookie;
}

// Answers a SYN for a listener of this machine with a cookie (RFC 4987 section 3.6): no state, until an ACK proves that the
// source is there. Only with net.ipv4.tcp_syncookies = 2 does the kernel give cookies at all times, and take them back.
// An IPv4 header with options, or a SYN that nobody listens for, is left to the kernel.
INLINE int answer_syn(struct xdp_md *context, int is_v4)
{
	u8 *data = (u8 *)(long)context->data, *end = (u8 *)(long)context->data_end;
	u32 ip_bytes = is_v4 ? 20 : 40;
	u8 *ip = data + 14, *tcp;
	// The smallest that either family needs is looked at in each branch, for the verifier.
	struct { u32 words[9]; } tuple = {};
	u32 size;
	if (is_v4) {
		if (data + 14 + 20 + TCP_BYTES > end || ip[0] != 0x45)
			return 0;
		tcp = ip + 20;
		tuple.words[0] = word(ip + 12);
		tuple.words[1] = word(ip + 16);
		tuple.words[2] = word(tcp);
		size = 12;
	} else {
		if (data + 14 + 40 + TCP_BYTES > end || ip[6] != 6)
			return 0;
		tcp = ip + 40;
		for (int i = 0; i < 8; i++)
			tuple.words[i] = word(ip + 8 + 4 * i);
		tuple.words[8] = word(tcp);
		size = 36;
	}
	struct socket *socket = lookup_tcp(context, &tuple, size, (u64)-1, 0);
	if (!socket)
		return 0;
	long cookie = -1;
	if (socket->state == LISTENING)
		cookie = is_v4 ? cookie_of(socket, ip, 20, tcp, end) : cookie_of(socket, ip, 40, tcp, end);
	release(socket);
	if (cookie < 0)
		return 0;
	u32 segment = (u64)cookie >> 32 & 0xffff, length = 14 + ip_bytes + TCP_BYTES + OPTION_BYTES;
	u64 whole = end - data;
	// A number from here on: arithmetic in 32 bits is not for pointers.
	asm volatile("" : "+r"(whole));
	if (adjust_tail(context, (int)(length - whole)))
		return 0;
	data = (u8 *)(long)context->data;
	end = (u8 *)(long)context->data_end;
	u64 sum = 6 + TCP_BYTES + OPTION_BYTES;
	ip = data + 14;
	if (is_v4) {
		if (data + 14 + 20 + TCP_BYTES + OPTION_BYTES > end)
			return -1;
		tcp = ip + 20;
		swap(ip + 12, ip + 16, 4);
		ip[1] = 0;
		write16(ip + 2, 20 + TCP_BYTES + OPTION_BYTES);
		write32(ip + 4, 0x4000);
		ip[8] = 64;
		write16(ip + 10, 0);
		u64 header = 0;
		for (int i = 0; i < 20; i += 2)
			header += big16(ip + i);
		write16(ip + 10, ~folded(header));
		for (int i = 12; i < 20; i += 2)
			sum += big16(ip + i);
	} else {
		if (data + 14 + 40 + TCP_BYTES + OPTION_BYTES > end)
			return -1;
		tcp = ip + 40;
		swap(ip + 8, ip + 24, 16);
		write16(ip + 4, TCP_BYTES + OPTION_BYTES);
		ip[7] = 64;
		for (int i = 8; i < 40; i += 2)
			sum += big16(ip + i);
	}
	swap(data, data + 6, 6);
	swap(tcp, tcp + 2, 2);
	write32(tcp + 8, big32(tcp + 4) + 1);
	write32(tcp + 4, (u32)cookie);
	tcp[12] = (TCP_BYTES + OPTION_BYTES) / 4 << 4;
	tcp[13] = FLAG_SYN | FLAG_ACK;
	write16(tcp + 14, 65535);
	write32(tcp + 16, 0);
	write32(tcp + 20, 2 << 24 | 4 << 16 | segment);
	for (int i = 0; i < TCP_BYTES + OPTION_BYTES; i += 2)
		sum += big16(tcp + i);
	write16(tcp + 16, ~folded(sum));
	return 1;
}

SEC("xdp")
int shield(struct xdp_md *context)
{
	const u8 *data = (const u8 *)(long)context->data, *end = (const u8 *)(long)context->data_end;
	u32 length = end - data;
	struct packet packet = {};
	u32 reason = NOT_IP;
	u64 flags = setting(FLAGS);
	int is_ip = 0;
	if (data + 14 <= end) {
		u32 type = big16(data + 12);
		if (type == 0x0800)
			is_ip = read_v4(&packet, data + 14, end);
		else if (type == 0x86dd)
			is_ip = read_v6(&packet, data + 14, end);
	}
	if (is_ip) {
		if (is_in(&allowed, packet.source)) {
			reason = ALLOWED;
		} else if (!is_in(&protected, packet.destination)) {
			reason = UNPROTECTED;
		} else {
			reason = judge(&packet, flags);
			u64 mask = setting(SAMPLE_MASK);
			// All bits set is never.
			if (mask != ~0ull && !(random_u32() & mask))
				take_sample(context, length, reason);
		}
	}
	// Behind every other look, so that nothing is answered that is dropped.
	u32 syn = packet.values[A_TCP_FLAGS] & 0x17;
	if (reason == PASSED && flags & SYN_COOKIES && flags & ENFORCE && syn == FLAG_SYN && !packet.values[A_FRAGMENT]) {
		int answered = answer_syn(context, packet.is_v4);
		if (answered)
			reason = COOKIE;
		if (answered < 0)
			flags |= LOST;
	}
	u64 *count = map_lookup(&counters, &reason);
	if (count)
		++*count;
	if (reason == COOKIE && !(flags & LOST))
		return XDP_TX;
	return reason > PASSED && flags & ENFORCE ? XDP_DROP : XDP_PASS;
}
