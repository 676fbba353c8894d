/* Prints what the C library's resolver says of each name: the error, or every address once, sorted by the caller. */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
        int error = getaddrinfo(argv[i], NULL, &hints, &found);
        if (error != 0)
            printf("%s %s\n", argv[i], error == EAI_NONAME ? "unknown" : gai_strerror(error));
        for (struct addrinfo *at = found; at != NULL; at = at->ai_next) {
            char text[INET6_ADDRSTRLEN];
            const void *address = at->ai_family == AF_INET
                                      ? (void *)&((struct sockaddr_in *)at->ai_addr)->sin_addr
                                      : (void *)&((struct sockaddr_in6 *)at->ai_addr)->sin6_addr;
            printf("%s %s\n", argv[i], inet_ntop(at->ai_family, address, text, sizeof text));
        }
        if (found != NULL)
            freeaddrinfo(found);
    }
    return 0;
}
