// SPDX-License-Identifier: GPL-2.0-only
/*
 * Run commands in a virtual machine and bring back their output and status.
 *
 *	agent init		be the machine's process 1 and serve
 *	agent serve		serve only (started by another init)
 *	agent run SOCKET CMD	client: run CMD in the machine behind SOCKET, a
 *				Unix socket of a QEMU chardev; exits with CMD's
 *				status (128+n when killed by signal n, 255 when
 *				the machine went away)
 *
 * Both ends speak over one virtio-serial port named PORT_NAME.  Such a port is
 * a byte stream without connections: whoever talked before may have left half
 * a message behind.  Hence every request carries a nonce, either end skips to
 * the marker with the nonce that it waits for, and the agent kills a command
 * whose client went away.  A request is
 *
 *	"RIGREQ" nonce[16] u32 length, command
 *
 * and its answer "RIGANS" nonce[16] followed by frames u8 type, u32 length,
 * data: 'o' and 'e' hold output and error output, 'x' the u32 exit status and
 * ends the answer.  Integers are little-endian, as x86 is.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT_NAME	"alleviate.agent"
#define REQ_MAGIC	"RIGREQ"
#define ANS_MAGIC	"RIGANS"
#define MAGIC_LEN	6
#define NONCE_LEN	16
#define MAX_COMMAND	(1U << 20)

#define ARRAY_SIZE(x)	(sizeof(x) / sizeof((x)[0]))

static void die(const char *what)
{
	fprintf(stderr, "agent: %s: %s\n", what, strerror(errno));
	exit(255);
}

/* All of it or -1; waits where the descriptor does not block. */
static int write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0) {
			struct pollfd pfd = { .fd = fd, .events = POLLOUT };

			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				return -1;
			poll(&pfd, 1, 1000);
			if (pfd.revents & POLLHUP)
				return -1;
			continue;
		}
		p += n;
		len -= n;
	}
	return 0;
}

/* All of it or -1 on end of file or error. */
static int read_all(int fd, void *data, size_t len)
{
	char *p = data;

	while (len) {
		ssize_t n = read(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		p += n;
		len -= n;
	}
	return 0;
}

/* Skip the stream to just behind @marker; -1 on end of file. */
static int skip_to(int fd, const char *marker, size_t len)
{
	char window[MAGIC_LEN + NONCE_LEN];
	size_t have = 0;

	while (have < len || memcmp(window, marker, len)) {
		if (have == len)
			memmove(window, window + 1, --have);
		if (read_all(fd, window + have, 1))
			return -1;
		have++;
	}
	return 0;
}

static int send_frame(int fd, char type, const void *data, uint32_t len)
{
	char head[5] = { type };

	memcpy(head + 1, &len, sizeof(len));
	if (write_all(fd, head, sizeof(head)))
		return -1;
	return write_all(fd, data, len);
}

/*
 * Run @command and forward its output until it has ended and its output is
 * drained; processes that it left in the background may go on.  Sleeps without
 * a timeout, so that a quiet command leaves the machine idle.
 */
static void serve_command(int port, const char *command)
{
	enum { OUT, ERR, PORT, CHILD, NR };
	struct pollfd fds[NR];
	int out[2], err[2], status;
	uint32_t code;
	pid_t pid;

	if (pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC))
		die("pipe");

	pid = fork();
	if (pid < 0)
		die("fork");
	if (!pid) {
		int null = open("/dev/null", O_RDONLY);

		setsid();
		signal(SIGPIPE, SIG_DFL);
		dup2(null, 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		execl("/bin/sh", "sh", "-c", command, NULL);
		_exit(127);
	}
	close(out[1]);
	close(err[1]);

	fds[OUT] = (struct pollfd){ .fd = out[0], .events = POLLIN };
	fds[ERR] = (struct pollfd){ .fd = err[0], .events = POLLIN };
	fds[PORT] = (struct pollfd){ .fd = port, .events = POLLIN };
	fds[CHILD] = (struct pollfd){
		.fd = syscall(SYS_pidfd_open, pid, 0),
		.events = POLLIN,
	};
	if (fds[CHILD].fd < 0)
		die("pidfd_open");
	for (;;) {
		int ended = fds[CHILD].fd < 0;
		int moved = 0;
		int gone;

		if (poll(fds, NR, ended ? 0 : -1) < 0 && errno != EINTR)
			die("poll");
		/*
		 * The client went away, or another is here already and its
		 * request waits: a port does not tell connections apart.
		 * News of a connection come through another virtqueue than
		 * data, so a hang-up, which also reads as POLLIN, may be that
		 * of the client before.
		 */
		gone = fds[PORT].revents;
		if (gone & POLLHUP) {
			usleep(300000);
			poll(&fds[PORT], 1, 0);
			gone = fds[PORT].revents;
		}
		if (gone)
			kill(-pid, SIGKILL);
		for (int i = OUT; i <= ERR; i++) {
			char buf[32768];
			ssize_t len;

			if (!fds[i].revents)
				continue;
			len = read(fds[i].fd, buf, sizeof(buf));
			if (len > 0) {
				send_frame(port, "oe"[i], buf, len);
				moved = 1;
			} else {
				fds[i].fd = -1;
			}
		}
		if (gone && !ended)
			waitpid(pid, &status, 0);
		if (gone)
			break;
		if (ended && !moved)
			break;
		if (!ended && fds[CHILD].revents) {
			waitpid(pid, &status, 0);
			close(fds[CHILD].fd);
			fds[CHILD].fd = -1;
		}
	}
	if (fds[CHILD].fd >= 0)
		close(fds[CHILD].fd);
	close(out[0]);
	close(err[0]);
	code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	send_frame(port, 'x', &code, sizeof(code));
}

/* Open the virtio-serial port named PORT_NAME; it may take time to appear. */
static int open_port(void)
{
	for (int tries = 0; tries < 600; tries++) {
		DIR *dir = opendir("/sys/class/virtio-ports");
		struct dirent *de;

		while (dir && (de = readdir(dir))) {
			char path[300], name[64] = "";
			FILE *f;

			snprintf(path, sizeof(path),
				 "/sys/class/virtio-ports/%s/name", de->d_name);
			f = fopen(path, "r");
			if (!f)
				continue;
			if (!fgets(name, sizeof(name), f))
				name[0] = 0;
			fclose(f);
			name[strcspn(name, "\n")] = 0;
			if (!strcmp(name, PORT_NAME)) {
				int fd;

				snprintf(path, sizeof(path), "/dev/%s", de->d_name);
				fd = open(path, O_RDWR | O_CLOEXEC);
				if (fd >= 0) {
					closedir(dir);
					return fd;
				}
			}
		}
		if (dir)
			closedir(dir);
		usleep(100000);
	}
	errno = ENODEV;
	return -1;
}

static void serve(void)
{
	int port = open_port();

	if (port < 0)
		die("no virtio-serial port " PORT_NAME);
	signal(SIGPIPE, SIG_IGN);
	for (;;) {
		char answer[MAGIC_LEN + NONCE_LEN] = ANS_MAGIC;
		uint32_t len;
		char *command;

		/* A port whose other end is closed reads as end of file; wait. */
		if (skip_to(port, REQ_MAGIC, MAGIC_LEN) ||
		    read_all(port, answer + MAGIC_LEN, NONCE_LEN) ||
		    read_all(port, &len, sizeof(len)) || len > MAX_COMMAND) {
			usleep(250000);
			continue;
		}
		command = calloc(1, len + 1);
		if (!command)
			die("calloc");
		if (!read_all(port, command, len) &&
		    !write_all(port, answer, sizeof(answer)))
			serve_command(port, command);
		free(command);
	}
}

/* Process 1: serve in a child, and reap what others leave behind. */
static void init(void)
{
	pid_t server = fork();

	if (!server) {
		setsid();
		serve();
	}
	for (;;) {
		pid_t pid = wait(NULL);

		if (pid == server || (pid < 0 && errno == ECHILD)) {
			fprintf(stderr, "agent: server ended, powering off\n");
			sync();
			reboot(RB_POWER_OFF);
		}
	}
}

static int run(const char *socket_path, const char *command)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char marker[MAGIC_LEN + NONCE_LEN] = ANS_MAGIC;
	uint32_t len = strlen(command);
	int fd;

	if (strlen(socket_path) >= sizeof(addr.sun_path)) {
		errno = ENAMETOOLONG;
		die(socket_path);
	}
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		die(socket_path);
	if (getrandom(marker + MAGIC_LEN, NONCE_LEN, 0) != NONCE_LEN)
		die("getrandom");
	if (write_all(fd, REQ_MAGIC, MAGIC_LEN) ||
	    write_all(fd, marker + MAGIC_LEN, NONCE_LEN) ||
	    write_all(fd, &len, sizeof(len)) || write_all(fd, command, len) ||
	    skip_to(fd, marker, sizeof(marker)))
		return 255;
	for (;;) {
		char head[5], buf[32768];
		uint32_t code;

		if (read_all(fd, head, sizeof(head)))
			return 255;
		memcpy(&len, head + 1, sizeof(len));
		if (len > sizeof(buf) || read_all(fd, buf, len))
			return 255;
		switch (head[0]) {
		case 'o':
			write_all(1, buf, len);
			break;
		case 'e':
			write_all(2, buf, len);
			break;
		case 'x':
			memcpy(&code, buf, sizeof(code));
			return code > 255 ? 255 : code;
		default:
			return 255;
		}
	}
}

int main(int argc, char **argv)
{
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 0);
	if (argc == 2 && !strcmp(argv[1], "init"))
		init();
	if (argc == 2 && !strcmp(argv[1], "serve"))
		serve();
	if (argc == 4 && !strcmp(argv[1], "run"))
		return run(argv[2], argv[3]);
	fprintf(stderr, "usage: agent init|serve|run SOCKET COMMAND\n");
	return 255;
}
