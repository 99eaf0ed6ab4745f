# A server as people write it for Server::Starter: it takes its socket with Server::Starter's own client code, says
# who it is, and ends when it gets SIGTERM.
use strict;
use warnings;
# Before anything is loaded: a server that is broken has to be gone when the interval (or the soak) is over.
BEGIN { exit 1 if -e $ENV{BROKEN_FILE} }
use IO::Socket::INET;
use Server::Starter qw(server_ports);

my $ports = server_ports();
my ($address) = keys %$ports;
my $listener = IO::Socket::INET->new;
$listener->fdopen($ports->{$address}, 'r+') or die "no socket: $!";

my $stop = 0;
$SIG{TERM} = sub { $stop = 1; close $listener; };

until ($stop) {
    my $client = $listener->accept or next;
    while (my $line = <$client>) {
        last if $line =~ /^\r?\n$/;
    }
    my $body = sprintf "{\"pid\":%d,\"generation\":%d,\"address\":\"%s\",\"sockets\":%d}\n",
        $$, $ENV{SERVER_STARTER_GENERATION}, $address, scalar keys %$ports;
    printf $client "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", length $body, $body;
    close $client;
}
