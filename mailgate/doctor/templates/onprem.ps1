# For the Exchange Management Shell, on each Mailbox server. What stands in quotes is of this gateway; read it first.

# What Exchange sees as our addresses{% if not addresses %}: fill them in{% endif %}.
$GatewayAddresses = {{ addresses or ["ADDRESS OF THE GATEWAY"] }}
$GatewayDomains = {{ domains }}

# -- Mail from the gateway: a connector of its own, as the most specific RemoteIPRanges win. As a stranger's, by design:
#    who is "externally secured" may relay, and counts as one of your own.
$Receive = New-ReceiveConnector -Name {{ "From " ~ hostname }} -Server $env:COMPUTERNAME `
    -TransportRole FrontendTransport -Bindings {{ "0.0.0.0:" ~ port }} -RemoteIPRanges $GatewayAddresses `
    -PermissionGroups AnonymousUsers -AuthMechanism Tls

# By default a source has 20 connections and 2 percent of all; the route opens up to {{ connections }}.
Set-ReceiveConnector -Identity $Receive.Identity -MaxInboundConnectionPerSource unlimited `
    -MaxInboundConnectionPercentagePerSource 100 -MessageRateLimit unlimited -TarpitInterval 00:00:00 `
    -MaxMessageSize {{ max_message_size }} -MaxHeaderSize '1MB' -ConnectionTimeout 01:00:00

# The organisation has limits of its own, the smallest counts:
Get-TransportConfig | Format-List MaxReceiveSize, MaxSendSize, MaxRecipientEnvelopeLimit

# -- Who exists: the list for [recipients.NAME] of kind list (kind ldap reads the directory by itself).
Get-Recipient -ResultSize Unlimited | Select-Object -ExpandProperty EmailAddresses |
    Where-Object PrefixString -ieq 'smtp' | ForEach-Object AddressString

# -- The gateway's word on spam, as a header field, becomes Exchange's: X-MS-Exchange-Organization-SCL itself is not
#    taken from a stranger.
New-TransportRule -Name {{ "Spam by " ~ hostname }} -HeaderContainsMessageHeader {{ spam_field }} `
    -HeaderContainsWords {{ spam_words }} -SetSCL 6
{% if outbound %}

# -- Mail to the Internet: all of it by the gateway, which takes it from this server's address
#    (trusted_networks of the listener {{ outbound.name }}).
New-SendConnector -Name {{ "To " ~ hostname }} -Custom -AddressSpaces 'SMTP:*;1' -SmartHosts {{ hostname }} `
    -Port {{ outbound.port }} -DNSRoutingEnabled $false -SmartHostAuthMechanism None `
{% if certificate %}
    -RequireTLS $true -TlsAuthLevel DomainValidation -TlsDomain {{ certificate }} `
{% else %}
    -RequireTLS $false `
{% endif %}
    -SourceTransportServers $env:COMPUTERNAME
{% endif %}

# -- See what there is now.
Get-ReceiveConnector -Identity $Receive.Identity | Format-List Name, RemoteIPRanges, Max*, TarpitInterval, Fqdn
