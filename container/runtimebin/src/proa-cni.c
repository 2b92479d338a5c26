/*
 * proa-cni is what the container runtime execs for a pod's network. It only
 * forwards the call to the pod network server in the Proa process:
 *
 *     request:  the CNI_ variables, each ended by NUL, one more NUL, stdin
 *     reply:    one byte exit code, then what goes to stdout
 *
 * The server's socket stands in the network configuration on stdin, as
 * "proaSocket":"/path". The pod network writes that configuration itself and
 * keeps the path free of characters that JSON would escape.
 */
#include "sys.h"

#define AF_UNIX 1
#define SOCK_STREAM 1
#define SOCK_CLOEXEC 02000000
#define SHUT_WR 1
#define MSG_LIMIT (4 << 20)

struct sockaddr_un {
	unsigned short family;
	char path[108];
};

static char conf[MSG_LIMIT];

/* GCC may call these for copies and clears even without a C library. */
void *memset(void *p, int c, size_t n)
{
	volatile char *d = p;
	while (n--)
		*d++ = (char)c;
	return p;
}

static size_t length(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

static int has_prefix(const char *s, const char *prefix)
{
	while (*prefix)
		if (*s++ != *prefix++)
			return 0;
	return 1;
}

static int write_all(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = sys4(SYS_write, fd, (long)p, (long)n, 0);
		if (w == -4) /* EINTR */
			continue;
		if (w <= 0)
			return -1;
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static void print(const char *s)
{
	write_all(1, s, length(s));
}

static __attribute__((noreturn)) void fail(const char *code, const char *msg)
{
	print("{\"cniVersion\":\"1.0.0\",\"code\":");
	print(code);
	print(",\"msg\":\"");
	print(msg);
	print("\"}\n");
	quit(1);
}

static size_t read_conf(void)
{
	size_t n = 0;

	for (;;) {
		ssize_t r = sys4(SYS_read, 0, (long)(conf + n), (long)(sizeof(conf) - n), 0);
		if (r == -4)
			continue;
		if (r < 0)
			fail("5", "cannot read the network configuration from stdin");
		if (r == 0)
			return n;
		n += (size_t)r;
		if (n == sizeof(conf))
			fail("6", "the network configuration is too large");
	}
}

/* find_socket copies the path of the server's socket into addr. */
static int find_socket(struct sockaddr_un *addr, size_t n)
{
	static const char key[] = "\"proaSocket\":\"";
	size_t i, j;

	for (i = 0; i + sizeof(key) - 1 < n; i++) {
		for (j = 0; j < sizeof(key) - 1 && conf[i + j] == key[j]; j++)
			;
		if (j != sizeof(key) - 1)
			continue;
		i += j;
		for (j = 0; i + j < n && conf[i + j] != '"'; j++) {
			if (j == sizeof(addr->path) - 1)
				return -1;
			addr->path[j] = conf[i + j];
		}
		addr->path[j] = 0;
		return j > 0 && i + j < n ? 0 : -1;
	}
	return -1;
}

static int send_request(int fd, char **envp, size_t n)
{
	for (; *envp; envp++)
		if (has_prefix(*envp, "CNI_") && write_all(fd, *envp, length(*envp) + 1) < 0)
			return -1;
	if (write_all(fd, "", 1) < 0 || write_all(fd, conf, n) < 0)
		return -1;
	return (int)sys4(SYS_shutdown, fd, SHUT_WR, 0, 0);
}

static __attribute__((noreturn)) void forward_reply(int fd)
{
	char buf[4096];
	int code = -1;

	for (;;) {
		ssize_t r = sys4(SYS_read, fd, (long)buf, sizeof(buf), 0);
		size_t skip = 0;

		if (r == -4)
			continue;
		if (r < 0 || (r == 0 && code < 0))
			fail("11", "the pod network of Proa ended before it replied");
		if (r == 0)
			quit(code);
		if (code < 0) {
			code = (unsigned char)buf[0];
			skip = 1;
		}
		if (write_all(1, buf + skip, (size_t)r - skip) < 0)
			quit(1);
	}
}

__attribute__((used, noreturn)) void start(long *stack)
{
	char **envp = (char **)(stack + 1 + stack[0] + 1);
	struct sockaddr_un addr = {.family = AF_UNIX};
	char **e;
	size_t n;
	long fd;

	n = read_conf();
	if (find_socket(&addr, n) < 0) {
		for (e = envp; *e; e++)
			if (has_prefix(*e, "CNI_COMMAND=VERSION")) {
				print("{\"cniVersion\":\"1.1.0\",\"supportedVersions\":"
				      "[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n");
				quit(0);
			}
		fail("7", "the network configuration names no proaSocket");
	}
	fd = sys4(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, 0);
	if (fd < 0 || sys4(SYS_connect, fd, (long)&addr, sizeof(addr), 0) < 0)
		fail("11", "the pod network of Proa is not running");
	if (send_request((int)fd, envp, n) < 0)
		fail("11", "the pod network of Proa broke off the call");
	forward_reply((int)fd);
}
