# For Exchange Online PowerShell (Connect-ExchangeOnline). What stands in quotes is of this gateway; read it first.

# What Microsoft sees as our addresses: public ones{% if not addresses %}, fill them in{% endif %}.
$GatewayAddresses = {{ addresses or ["ADDRESS OF THE GATEWAY"] }}
$GatewayDomains = {{ domains }}

# -- Mail from the gateway, and from nobody else: without the restriction others go round the gateway.
{% if client_certificate %}
New-InboundConnector -Name {{ "From " ~ hostname }} -ConnectorType Partner -SenderDomains '*' `
    -RequireTls $true -RestrictDomainsToCertificate $true -TlsSenderCertificateName {{ client_certificate }}
{% else %}
#    By address; with `certificate` in the route it would be by name, which is better.
New-InboundConnector -Name {{ "From " ~ hostname }} -ConnectorType Partner -SenderDomains '*' `
    -RequireTls $true -RestrictDomainsToIPAddresses $true -SenderIPAddresses $GatewayAddresses
{% endif %}

# -- Microsoft looks behind the gateway for the address that the mail really came from: in our Received field.
Set-InboundConnector -Identity {{ "From " ~ hostname }} -EFSkipLastIP $true -EFUsers $null
# Mail that says it is from a domain of yours and comes by no connector is refused, that of devices and services too
# which send it to Microsoft by themselves: let those send by the gateway first.
Set-OrganizationConfig -RejectDirectSend $true
{% if arc %}

# -- What the gateway has found out about mail that it has changed (ARC) is believed.
Set-ArcConfig -Identity Default -ArcTrustedSealers {{ arc }}
{% endif %}

# -- Recipients that do not exist are refused at RCPT where a domain is Authoritative, and nowhere else. Where some of
#    its mailboxes are elsewhere it must stay InternalRelay.
foreach ($Domain in $GatewayDomains) { Get-AcceptedDomain -Identity $Domain | Format-Table Name, DomainType }
{% if outbound %}

# -- Mail to the Internet by the gateway. Its addresses are those of every other tenant too: let the gateway know this
#    one by what it alone can show (at the listener {{ outbound.name }}), not by Microsoft's networks.
New-OutboundConnector -Name {{ "To " ~ hostname }} -ConnectorType Partner -RecipientDomains '*' `
    -UseMXRecord $false -SmartHosts {{ hostname }} -TlsSettings DomainValidation -TlsDomain {{ certificate or hostname }}
{% endif %}

# -- See what there is now.
Get-InboundConnector -Identity {{ "From " ~ hostname }} | Format-List
{% if tenant_domain %}
Get-AcceptedDomain -Identity {{ tenant_domain }} | Format-List
{% endif %}
