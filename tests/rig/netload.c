// SPDX-License-Identifier: GPL-2.0-only
/*
 * The far end of an assigned NIC's wire: a load of ICMP echo requests.
 *
 *	netload PEER QEMU MAC MODE SECONDS PARAM [LINGER]
 *
 * Speaks Ethernet frames over Unix datagram sockets with QEMU's
 * "-netdev dgram": PEER is bound here, QEMU is where QEMU listens.  MAC is the
 * NIC's, which has the address 10.9.9.2; this end is 10.9.9.1 and answers
 * ARP.  The machine under test needs nothing but a kernel that replies to
 * echo requests, and the load takes none of its CPUs.
 *
 *	window N	keep N requests on the way (throughput; N=1: latency)
 *	rate R		send R requests a second, whatever comes back
 *
 * Prints one line of JSON: requests sent, replies received, seconds, replies
 * a second, and round-trip times in microseconds.  A request that got no
 * answer within RETRY_NS is not waited for any longer, so that a lost frame
 * costs no more.  An answer that comes after that, or after the end, is late:
 * it does not count as received and is not timed.  "lost" is what had neither.
 * With LINGER, answers are waited for after the end until none came for so many
 * seconds, which tells a slow machine from one that loses frames.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_WINDOW	4096
#define MAX_SAMPLES	1000000
#define RETRY_NS	500000000ULL
#define PAYLOAD		56

struct eth {
	uint8_t dst[6], src[6];
	uint16_t proto;
} __attribute__((packed));

struct arp {
	uint16_t htype, ptype;
	uint8_t hlen, plen;
	uint16_t op;
	uint8_t sha[6], spa[4], tha[6], tpa[4];
} __attribute__((packed));

struct ip {
	uint8_t vihl, tos;
	uint16_t len, id, frag;
	uint8_t ttl, proto;
	uint16_t csum;
	uint8_t src[4], dst[4];
} __attribute__((packed));

struct icmp {
	uint8_t type, code;
	uint16_t csum, id, seq;
	uint64_t sent_ns;
	uint8_t pad[PAYLOAD - 8];
} __attribute__((packed));

struct echo {
	struct eth eth;
	struct ip ip;
	struct icmp icmp;
} __attribute__((packed));

static const uint8_t my_mac[6] = { 0x52, 0x54, 0x00, 0xa1, 0x1e, 0xff };
static const uint8_t my_ip[4] = { 10, 9, 9, 1 };
static const uint8_t nic_ip[4] = { 10, 9, 9, 2 };
static uint8_t nic_mac[6];
static struct sockaddr_un qemu = { .sun_family = AF_UNIX };
static int sock;

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static uint16_t checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint32_t sum = 0;

	for (; len > 1; len -= 2, p += 2)
		sum += p[0] << 8 | p[1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons(~sum);
}

static void send_frame(const void *frame, size_t len)
{
	/* A full or not yet existing socket drops the frame, as a wire does. */
	if (sendto(sock, frame, len, MSG_DONTWAIT, (struct sockaddr *)&qemu,
		   sizeof(qemu)) < 0 && errno != EAGAIN && errno != ENOBUFS &&
	    errno != ENOENT && errno != ECONNREFUSED) {
		perror("netload: sendto");
		exit(1);
	}
}

static void send_echo(uint16_t seq, uint64_t sent_ns)
{
	struct echo e = {
		.eth = { .proto = htons(0x0800) },
		.ip = { .vihl = 0x45, .ttl = 64, .proto = 1,
			.len = htons(sizeof(e.ip) + sizeof(e.icmp)) },
		.icmp = { .type = 8, .id = htons(0xa11e), .seq = htons(seq) },
	};

	memcpy(e.eth.dst, nic_mac, 6);
	memcpy(e.eth.src, my_mac, 6);
	memcpy(e.ip.src, my_ip, 4);
	memcpy(e.ip.dst, nic_ip, 4);
	e.ip.csum = checksum(&e.ip, sizeof(e.ip));
	e.icmp.sent_ns = sent_ns;
	e.icmp.csum = checksum(&e.icmp, sizeof(e.icmp));
	send_frame(&e, sizeof(e));
}

static void answer_arp(const struct arp *a)
{
	struct {
		struct eth eth;
		struct arp arp;
		uint8_t pad[18];
	} __attribute__((packed)) r = {
		.eth = { .proto = htons(0x0806) },
		.arp = { .htype = htons(1), .ptype = htons(0x0800),
			 .hlen = 6, .plen = 4, .op = htons(2) },
	};

	if (ntohs(a->op) != 1 || memcmp(a->tpa, my_ip, 4))
		return;
	memcpy(r.eth.dst, a->sha, 6);
	memcpy(r.eth.src, my_mac, 6);
	memcpy(r.arp.sha, my_mac, 6);
	memcpy(r.arp.spa, my_ip, 4);
	memcpy(r.arp.tha, a->sha, 6);
	memcpy(r.arp.tpa, a->spa, 4);
	send_frame(&r, sizeof(r));
}

static int compare_u32(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
	struct sockaddr_un peer = { .sun_family = AF_UNIX };
	static uint64_t sent_at[65536];		/* 0 when answered */
	static bool given_up[65536];
	uint64_t start, end, next, last, sent = 0, received = 0, late = 0;
	unsigned int window = 1, in_flight = 0, nr = 0;
	double rate = 0, seconds, linger;
	uint16_t seq = 0, oldest = 0;
	uint32_t *rtt;

	if (argc < 7 || argc > 8 || strlen(argv[1]) >= sizeof(peer.sun_path) ||
	    strlen(argv[2]) >= sizeof(qemu.sun_path) ||
	    sscanf(argv[3], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &nic_mac[0],
		   &nic_mac[1], &nic_mac[2], &nic_mac[3], &nic_mac[4],
		   &nic_mac[5]) != 6)
		goto usage;
	seconds = atof(argv[5]);
	linger = argc == 8 ? atof(argv[7]) : 0;
	if (!strcmp(argv[4], "window"))
		window = atoi(argv[6]);
	else if (!strcmp(argv[4], "rate"))
		rate = atof(argv[6]);
	else
		goto usage;
	if (window < 1 || window > MAX_WINDOW || seconds <= 0 || rate < 0 ||
	    linger < 0)
		goto usage;

	rtt = calloc(MAX_SAMPLES, sizeof(*rtt));
	sock = socket(AF_UNIX, SOCK_DGRAM, 0);
	if (!rtt || sock < 0)
		return perror("netload"), 1;
	snprintf(peer.sun_path, sizeof(peer.sun_path), "%s", argv[1]);
	snprintf(qemu.sun_path, sizeof(qemu.sun_path), "%s", argv[2]);
	unlink(peer.sun_path);
	if (bind(sock, (struct sockaddr *)&peer, sizeof(peer)))
		return perror("netload: bind"), 1;

	start = now_ns();
	next = start;
	last = 0;
	end = start + seconds * 1e9;
	for (;;) {
		struct pollfd pfd = { .fd = sock, .events = POLLIN };
		uint64_t now = now_ns();
		struct timespec ts = { .tv_nsec = 1000000 };
		uint8_t buf[2048];
		ssize_t len;

		if (now >= end && (sent == received + late ||
				   now >= (last > end ? last : end) + linger * 1e9))
			break;
		/* Give up what is overdue; what is oldest comes first. */
		while (oldest != seq && (!sent_at[oldest] ||
		       now - sent_at[oldest] > RETRY_NS)) {
			if (sent_at[oldest]) {
				given_up[oldest] = true;
				in_flight--;
			}
			oldest++;
		}
		while (now < end && (rate ? next <= now : in_flight < window)) {
			if ((uint16_t)(seq + 1) == oldest)
				break;
			given_up[seq] = false;
			sent_at[seq] = now_ns();
			send_echo(seq, sent_at[seq]);
			seq++;
			in_flight++;
			sent++;
			next += rate ? 1e9 / rate : 0;
		}
		if (rate && next > now && next - now < 1000000)
			ts.tv_nsec = next - now;
		ppoll(&pfd, 1, &ts, NULL);
		while ((len = recv(sock, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
			struct echo *e = (void *)buf;
			uint16_t answered;

			if (len >= (ssize_t)(sizeof(struct eth) + sizeof(struct arp)) &&
			    ntohs(e->eth.proto) == 0x0806) {
				answer_arp((void *)(buf + sizeof(struct eth)));
				continue;
			}
			if (len < (ssize_t)sizeof(*e) ||
			    ntohs(e->eth.proto) != 0x0800 || e->ip.proto != 1 ||
			    e->icmp.type != 0 || ntohs(e->icmp.id) != 0xa11e)
				continue;
			answered = ntohs(e->icmp.seq);
			if (!sent_at[answered] ||
			    e->icmp.sent_ns != sent_at[answered])
				continue;
			last = now_ns();
			if (!given_up[answered])
				in_flight--;
			if (given_up[answered] || last >= end) {
				late++;
			} else {
				if (nr < MAX_SAMPLES)
					rtt[nr++] = (last - sent_at[answered]) / 1000;
				received++;
			}
			sent_at[answered] = 0;
		}
	}
	qsort(rtt, nr, sizeof(*rtt), compare_u32);
	printf("{\"sent\": %llu, \"received\": %llu, \"late\": %llu, \"lost\": %llu, \"seconds\": %.3f, \"per_s\": %.1f, \"rtt_p50_us\": %u, \"rtt_p99_us\": %u}\n",
	       (unsigned long long)sent, (unsigned long long)received,
	       (unsigned long long)late,
	       (unsigned long long)(sent - received - late), seconds, received / seconds,
	       nr ? rtt[nr / 2] : 0, nr ? rtt[nr * 99ULL / 100] : 0);
	unlink(peer.sun_path);
	return 0;
usage:
	fprintf(stderr, "usage: netload PEER QEMU MAC window|rate SECONDS N [LINGER]\n");
	return 2;
}
